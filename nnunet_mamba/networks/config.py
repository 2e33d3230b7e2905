"""Configs: the settings that distinguish the networks. Sizes come from nnU-Net's plans."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

from nnunet_mamba.blocks.meta import PLACEMENTS
from nnunet_mamba.blocks.mixers import KINDS, OUTPUTS
from nnunet_mamba.networks.mixer_config import CONV, NONE, Mixer

Config = TypeVar("Config", bound="NetworkConfig")


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of a network: a row of the table in `networks.family`."""

    mixer: Mixer | None = None

    mixer_kinds: ClassVar[tuple[str, ...]] = ("mamba",)
    mixer_outputs: ClassVar[tuple[str, ...]] = OUTPUTS

    def __post_init__(self) -> None:
        if self.mixer is not None and self.mixer.kind not in self.mixer_kinds:
            raise ValueError(
                f"kind: this network has no mixer {self.mixer.kind!r}; choose from "
                f"{', '.join(self.mixer_kinds)}."
            )
        if self.mixer is not None and self.mixer.mixer_output not in self.mixer_outputs:
            raise ValueError(
                f"mixer_output: this network has no {self.mixer.mixer_output!r}; choose from "
                f"{', '.join(self.mixer_outputs)}."
            )

    def with_overrides(self: Config, **overrides: Any) -> Config:
        """Return a copy with fields of this class or of its mixer replaced. ValueError for other names.

        `mixer` may be a word: a kind of mixers for the places of this network's own, with the kind's own
        settings, "conv" for the size-matched twin, or "none" for the twin. `kind` is another name for it;
        ValueError if both are given.
        """
        given = [name for name in ("mixer", "kind") if name in overrides]
        if len(given) > 1:
            values = " and ".join(f"{name}={overrides[name]!r}" for name in given)
            raise ValueError(f"{values} both say which mixer; give one of them.")
        if given and isinstance(overrides[given[0]], str):
            others = {name: value for name, value in overrides.items() if name not in given}
            return self.with_mixer(overrides[given[0]], given[0]).with_overrides(**others)
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

    def with_mixer(self: Config, word: str, setting: str = "mixer") -> Config:
        """Return a copy with mixers of another kind in the same places; "conv": convolutions with
        as many parameters; "none": the twin without them.

        ValueError, which names the `setting` that the word came by, for words that do not fit.
        """
        if word == NONE:
            return self.without_ssm()
        if self.mixer is None:
            raise ValueError(f"{setting}: this network has no mixer, so there is no place for {word!r}.")
        words = (*self.mixer_kinds, CONV, NONE)
        if word not in words:
            raise ValueError(
                f"{setting}: this network has no mixer {word!r}; choose from {', '.join(words)}."
            )
        return replace(self, mixer=self.mixer.of_kind(word))

    def without_ssm(self: Config) -> Config:
        """Return the twin in which every mixer, with its norms and projections, is the identity."""
        return replace(self, mixer=None)


@dataclass(frozen=True)
class FixedConfig(NetworkConfig):
    """Settings of a network of fixed topology, which ignores that of nnU-Net's plans and pads its inputs.

    ndims             numbers of axes (2, 3 or both) of grids that it takes
    features          channels per stage in the paper, from the largest grid down
    strides           of each stage, the same for all axes
    output_strides    voxels of the input per voxel of each deeply supervised output, the largest first
    """

    ndims: ClassVar[tuple[int, ...]]
    features: ClassVar[tuple[int, ...]]
    strides: ClassVar[tuple[int, ...]]
    output_strides: ClassVar[tuple[int, ...]] = (1,)

    @classmethod
    def plan_strides(cls) -> tuple[int, ...]:
        """Return `strides` for a plan that names this network.

        nnU-Net derives the supervised resolutions from them (all but the last), so they are the steps from
        output to output, and then to the coarsest grid.
        """
        totals = (*cls.output_strides, math.prod(cls.strides))
        return (totals[0], *(below // above for above, below in pairwise(totals)))


@dataclass(frozen=True)
class MetaConfig(NetworkConfig):
    """Settings of a network of the meta-architecture; the defaults are nnU-Net's plain U-Net.

    Placements are `plain` (stacked convolutions, no residual) and those of `MetaBlock`. In `encoder` (stages
    before the bottleneck, from full resolution down) and `decoder` (from the bottleneck up) the last word
    repeats.

    stem          before stage 0, at full resolution: none, a convolution, or a residual group
    downsample    by the first convolution of a stage's `block`, or by a conv-norm-act `layer` before it
    skip          around residual blocks: `projection` (identity where shapes allow, ResNet-D), or U-Mamba's
                  `conv` (a biased pointwise convolution without norm in the first block of every group)
    plan_counts   n_conv_per_stage of the plans is read as convolutions of a block, or as blocks of two
    mixer_per     a mixer in every `block`, where the placement says, or one per `stage`, after its last block
                  (U-Mamba), whichever hybrid the placement is
    upsample      transpose, or nearest (then pointwise convolution)
    n_supervised  number of resolutions with logits, from the largest; None: all above the bottleneck
    init          he, or zero_residual: then every residual block starts as the identity
    quirks        deviations that reproduce a paper's code, U-Mamba's but for the last, xLSTM-UNet's:
                  single_deep_blocks     one block in each stage of the deeper half of the encoder, and in
                                         the last stages of the decoder
                  no_top_skip_2d         2D decoders do not use the skip at full resolution
                  every_second_stage_2d  2D encoders have a mixer in every second stage, the last included
                  channel_tokens         channels are the tokens of stages with at most as many voxels
                  conv_for_top_mixers    the encoder's largest stages have a residual block in place of a
                                         mixer: three in 3D; in 2D the second, and the first has neither
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

    mixer_kinds: ClassVar[tuple[str, ...]] = KINDS

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

    def without_ssm(self) -> MetaConfig:
        """Return the config of the twin. Where a mixer would be is forgotten with it, so two networks that
        are one network without their mixers have equal twins."""
        without = super().without_ssm()
        encoder, bottleneck, decoder = (
            tuple("cnn" if word in HYBRIDS else word for word in words)
            for words in (self.encoder, (self.bottleneck,), self.decoder)
        )
        return replace(
            without,
            encoder=encoder,
            bottleneck=bottleneck[0],
            decoder=decoder,
            mixer_per=MetaConfig.mixer_per,
            quirks=self.quirks - MIXER_QUIRKS,
        )


_PLACEMENTS = ("plain", *PLACEMENTS)
HYBRIDS = ("hybrid_inside", "hybrid_outside")  # with the identity as mixer: "cnn"
MIXER_QUIRKS = frozenset({"every_second_stage_2d", "channel_tokens"})
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
    "quirks": (
        "single_deep_blocks",
        "no_top_skip_2d",
        "every_second_stage_2d",
        "channel_tokens",
        "conv_for_top_mixers",
    ),
}
