"""What distinguishes the members of the family, as data. Sizes come from nnU-Net's plans."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

from nnunet_mamba.blocks.meta import PLACEMENTS
from nnunet_mamba.blocks.mixers import BARE, OUTPUTS

Config = TypeVar("Config", bound="NetworkConfig")


@dataclass(frozen=True)
class Mixer:
    """The sequence mixer: its kind, its directions (see `scan_order`), its output (see `blocks.mixers`; a
    choice of the kind `mamba` only) and the sizes of its Mamba blocks. `mamba_trans` takes at most as many
    states as channels."""

    kind: str = "mamba"
    order: str = "uni"
    mixer_output: str = BARE
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2

    def module_options(self) -> dict[str, Any]:
        """Keyword arguments of the mixer's module."""
        others = {"kind"} if self.kind == "mamba" else {"kind", "mixer_output"}
        return {name: value for name, value in asdict(self).items() if name not in others}


@dataclass(frozen=True)
class NetworkConfig:
    """A row of the table of networks: what tells one network from another of its class."""

    mixer: Mixer | None = None

    mixer_kinds: ClassVar[tuple[str, ...]] = ("mamba",)

    def __post_init__(self) -> None:
        if self.mixer is None:
            return
        kind, output = self.mixer.kind, self.mixer.mixer_output
        if kind not in self.mixer_kinds:
            raise ValueError(
                f"kind: this network has no mixer {kind!r}; choose from {', '.join(self.mixer_kinds)}."
            )
        outputs = OUTPUTS if kind == "mamba" else (BARE,)
        if output not in outputs:
            raise ValueError(
                f"mixer_output: mixers of the kind {kind!r} have no {output!r}; choose from "
                f"{', '.join(outputs)}."
            )

    def with_overrides(self: Config, **overrides: Any) -> Config:
        """A copy with fields of this class or of its mixer replaced. ValueError for other names."""
        own, mixer = {f.name for f in fields(self)}, {f.name for f in fields(Mixer)}
        unknown = sorted(set(overrides) - own - mixer)
        if unknown:
            raise ValueError(
                f"Unknown override {', '.join(unknown)}; known are {', '.join(sorted(own | mixer))}."
            )
        config = replace(self, **{name: value for name, value in overrides.items() if name in own})
        to_mixer = {name: value for name, value in overrides.items() if name in mixer}
        if not to_mixer:
            return config
        if config.mixer is None:
            raise ValueError(f"{', '.join(to_mixer)}: this network has no mixer to set this for.")
        return replace(config, mixer=replace(config.mixer, **to_mixer))

    def without_ssm(self: Config) -> Config:
        """The twin in which every mixer, with its norms and projections, is the identity."""
        return replace(self, mixer=None)


@dataclass(frozen=True)
class FixedConfig(NetworkConfig):
    """A network whose topology is its own, whatever nnU-Net's plans say; inputs are padded to fit it.

    ndim              axes of its grids
    features          the paper's channels per stage, from the largest grid down
    strides           of each stage, the same for all axes
    output_strides    voxels of the input per voxel of each deeply supervised output, the largest first
    """

    ndim: ClassVar[int]
    features: ClassVar[tuple[int, ...]]
    strides: ClassVar[tuple[int, ...]]
    output_strides: ClassVar[tuple[int, ...]] = (1,)

    @classmethod
    def plan_strides(cls) -> tuple[int, ...]:
        """What stands under `strides` in a plan that names this network. nnU-Net reads there which
        resolutions are supervised (all but the last), so it is the way from output to output, and on to the
        coarsest grid."""
        totals = (*cls.output_strides, math.prod(cls.strides))
        return (totals[0], *(below // above for above, below in pairwise(totals)))


@dataclass(frozen=True)
class MetaConfig(NetworkConfig):
    """A network of the meta-architecture; the defaults are nnU-Net's plain U-Net.

    Placements are `plain` (stacked convolutions, no residual) and those of `MetaBlock`. In `encoder` (stages
    before the bottleneck, from full resolution down) and `decoder` (from the bottleneck up) the last word
    repeats.

    stem          what stands before stage 0 at full resolution: none, a convolution, or a residual group
    downsample    by the first convolution of a stage's `block`, or by a conv-norm-act `layer` before it
    skip          around residual blocks: `projection` (identity where shapes allow, ResNet-D), or U-Mamba's
                  `conv` (a biased pointwise convolution without norm in the first block of every group)
    plan_counts   n_conv_per_stage of the plans is read as convolutions in F, or as blocks of two convolutions
    mixer_per     a mixer in every block, or one behind the last block of a stage
    upsample      transpose, or nearest (then pointwise convolution)
    n_supervised  how many resolutions have logits, from the largest; None: all above the bottleneck
    init          he, or zero_residual: then every residual block begins as the identity
    quirks        deviations kept only to equal a paper's code, all U-Mamba's:
                  single_deep_blocks     one block in each stage of the deeper half of the encoder, and in
                                         the last stages of the decoder
                  no_top_skip_2d         2D decoders do not use the skip at full resolution
                  every_second_stage_2d  2D encoders have a mixer in every second stage, the last included
                  channel_tokens         channels are the tokens where a grid has no more voxels than that
    """

    stem: str = "none"
    encoder: tuple[str, ...] = ("plain",)
    bottleneck: str = "plain"
    decoder: tuple[str, ...] = ("plain",)
    downsample: str = "block"
    skip: str = "projection"
    plan_counts: str = "convs"
    mixer_per: str = "block"
    upsample: str = "transpose"
    n_supervised: int | None = None
    init: str = "he"
    quirks: frozenset[str] = frozenset()

    mixer_kinds: ClassVar[tuple[str, ...]] = ("mamba", "mamba_trans")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("encoder", "decoder"):
            words = getattr(self, name)
            object.__setattr__(self, name, (words,) if isinstance(words, str) else tuple(words))
        for name, words in WORDS.items():
            value = getattr(self, name)
            for word in (value,) if isinstance(value, str) else value:
                if word not in words:
                    raise ValueError(f"{name}: unknown {word!r}; choose from {', '.join(words)}.")


_PLACEMENTS = ("plain", *PLACEMENTS)
WORDS = {
    "stem": ("none", "conv", "residual"),
    "encoder": _PLACEMENTS,
    "bottleneck": _PLACEMENTS,
    "decoder": _PLACEMENTS,
    "downsample": ("block", "layer"),
    "skip": ("projection", "conv"),
    "plan_counts": ("convs", "blocks"),
    "mixer_per": ("block", "stage"),
    "upsample": ("transpose", "nearest"),
    "init": ("he", "zero_residual"),
    "quirks": ("single_deep_blocks", "no_top_skip_2d", "every_second_stage_2d", "channel_tokens"),
}
