"""Settings of the global mixers of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import nn

from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.mixers import BARE, LAYERS, MIXERS, outputs_of, settings_of
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.scan_order import scan_order

CONV, NONE = "conv", "none"  # words for convolutions in the place of the mixer, and for no mixer
COUNTS = ("d_state", "d_conv", "expand", "headdim", "heads", "groups", "max_tokens")  # whole numbers
MAKERS = {**{kind: layer.make for kind, layer in LAYERS.items()}, **MIXERS, "vss": SS2D}


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

    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Set what was not given to the kind's defaults.

        Raise ValueError for an unknown kind, settings that it does not have, and counts below 1.
        """
        if self.kind not in MAKERS:
            raise ValueError(f"kind: there is no mixer {self.kind!r}; choose from {', '.join(MAKERS)}.")
        outputs = outputs_of(self.kind, self.local)
        if self.mixer_output not in outputs:
            raise ValueError(
                f"mixer_output: mixers of the kind {self.kind!r} have no {self.mixer_output!r}; choose from "
                f"{', '.join(outputs)}."
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
        settings are the kind's defaults. "conv" is the size-matched twin of this one."""
        settings = asdict(self) if kind in (self.kind, CONV) else {"kind": kind, "order": self.order}
        make = LocalMixer if kind == CONV else Mixer
        has_output = self.mixer_output in outputs_of(settings["kind"], make.local)
        return make(**settings | {"mixer_output": self.mixer_output if has_output else BARE})

    def build_layer(self, features: int, ndim: int) -> nn.Module:
        """Return the layer over tokens alone, without a norm, for grids of `ndim` axes."""
        return LAYERS[self.kind].make(features, scan_order(self.order, ndim), **self.options())


class LocalMixer(Mixer):
    """Settings of the mixers in whose places convolutions with as many parameters stand: see
    `blocks.matched_conv`."""

    local: ClassVar[bool] = True

    def module_options(self) -> dict[str, Any]:
        """Return the keyword arguments of the mixer's module."""
        return {**super().module_options(), "local": True}

    def build_layer(self, features: int, ndim: int) -> nn.Module:
        """Return the convolution in the place of the layer over tokens."""
        return MatchedConv(features, ndim, replaced=super().build_layer(features, ndim))
