"""Configs: the settings that distinguish the networks. Sizes come from nnU-Net's plans."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

from torch import nn

from nnunet_mamba.blocks.meta import PLACEMENTS
from nnunet_mamba.blocks.mixers import BARE, KINDS, LAYERS, MIXERS, OUTPUTS, outputs_of, settings_of
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.scan_order import scan_order

NONE = "none"  # the word for no mixer
COUNTS = ("d_state", "d_conv", "expand", "headdim", "heads", "groups", "max_tokens")  # whole numbers
MAKERS = {**{kind: layer.make for kind, layer in LAYERS.items()}, **MIXERS, "vss": SS2D}
Config = TypeVar("Config", bound="NetworkConfig")


@dataclass(frozen=True)
class Mixer:
    """Settings of the global mixers. Those that are not given are the kind's own defaults; None if it has no
    such setting.

    kind          a name of `blocks.mixers.KINDS`, or vss
    order         name of the scan order, see `scan_order`; attention has none
    mixer_output  what a mixer that is a layer over tokens returns, see `blocks.mixers`
    d_state       states per channel, or per head; `mamba_trans` takes at most as many as channels
    d_conv        taps of the convolution
    expand        inner channels per channel
    shared        whether all directions of `mamba` have the same weights
    headdim       channels of a head, of `mamba2` and `attention`
    heads         heads of `mlstm`
    groups        groups of heads of `mamba2`, each with B, C and a norm of its own
    channel_D     whether D of `mamba2` is per channel, not per head
    max_tokens    tokens that attend to each other; longer grids are cut into windows
    windows       parts of the map that `large_kernel` scans by themselves, see `blocks.large_kernel`
    """

    kind: str = "mamba"
    order: str = "uni"
    mixer_output: str = BARE
    d_state: int | None = None
    d_conv: int | None = None
    expand: int | None = None
    shared: bool | None = None
    headdim: int | None = None
    heads: int | None = None
    groups: int | None = None
    channel_D: bool | None = None
    max_tokens: int | None = None
    windows: str | None = None

    def __post_init__(self) -> None:
        """Set what was not given to the kind's defaults.

        Raise ValueError for an unknown kind, settings that it does not have, and counts below 1.
        """
        if self.kind not in MAKERS:
            raise ValueError(f"kind: there is no mixer {self.kind!r}; choose from {', '.join(MAKERS)}.")
        if self.mixer_output not in outputs_of(self.kind):
            raise ValueError(
                f"mixer_output: mixers of the kind {self.kind!r} have no {self.mixer_output!r}; choose from "
                f"{', '.join(outputs_of(self.kind))}."
            )
        known = settings_of(MAKERS[self.kind])
        unknown = sorted(self.options().keys() - known.keys())
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: mixers of the kind {self.kind!r} have no such setting; they have "
                f"{', '.join(sorted(known))}."
            )
        for name, default in known.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}; give a whole number of at least 1, or None.")

    def options(self) -> dict[str, Any]:
        """Return the settings of the kind alone."""
        common = ("kind", "order", "mixer_output")
        return {name: v for name, v in asdict(self).items() if name not in common and v is not None}

    def module_options(self) -> dict[str, Any]:
        """Return the keyword arguments of the mixer's module."""
        shared = {"order": self.order, **({"mixer_output": self.mixer_output} if self.kind in LAYERS else {})}
        return {**shared, **self.options()}

    def of_kind(self, kind: str) -> Mixer:
        """Return a mixer of another kind for the same place: its order and, where it can, its output; other
        settings are the kind's defaults."""
        output = self.mixer_output if kind in MAKERS and self.mixer_output in outputs_of(kind) else BARE
        return Mixer(kind, self.order, output)

    def build_layer(self, features: int, ndim: int) -> nn.Module:
        """Return the layer over tokens alone, without a norm, for grids of `ndim` axes."""
        return LAYERS[self.kind].make(features, scan_order(self.order, ndim), **self.options())


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
        settings, or "none" for the twin. `kind` is another name for it; ValueError if both are given.
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
        """Return a copy with mixers of another kind in the same places; "none": the twin without them.

        ValueError, which names the `setting` that the word came by, for words that do not fit.
        """
        if word == NONE:
            return self.without_ssm()
        if self.mixer is None:
            raise ValueError(f"{setting}: this network has no mixer, so there is no place for {word!r}.")
        if word not in self.mixer_kinds:
            words = ", ".join((*self.mixer_kinds, NONE))
            raise ValueError(f"{setting}: this network has no mixer {word!r}; choose from {words}.")
        return self if word == self.mixer.kind else replace(self, mixer=self.mixer.of_kind(word))

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
