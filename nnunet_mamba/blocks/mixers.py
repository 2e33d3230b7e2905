"""Global mixers on feature maps, (B, C, *grid) -> (B, C, *grid), by the word that names their kind.

Most kinds are a layer over tokens, a row of `LAYERS`: M(x) = layer(norm(tokens of x)). `mixer_output` is what
such a mixer returns:

    bare        M(x)
    residual    x + M(x)
    norm        InstanceNorm(M(x)), affine
    scaled      M(x), its out_proj initialised 1 / (0.044 sqrt(k)) times as large: a deviation of about 1;
                mamba alone

A mixer is `local`, the size-matched twin, if a `MatchedConv` takes the place of each of its layers over
tokens, with as many parameters; norms, residuals and outputs are the same.

With white noise for x, k directions and its own initialisation, the output of a Mamba layer has a standard
deviation of about 0.044 sqrt(k). `SequenceMixer.mixer_precision` says how much of a mixer is computed in
float32. Tokens stay in memory order, whatever the direction.

[1] Ma et al., U-Mamba, arXiv:2401.04722.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.attention import Attention
from nnunet_mamba.blocks.convolution import NORM
from nnunet_mamba.blocks.large_kernel import LargeKernelMixer
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.mamba_trans import MambaTransMixer
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.mlstm import MLSTM, OffsetLayerNorm
from nnunet_mamba.blocks.tokens import Grid, to_map, to_tokens
from nnunet_mamba.ops.precision import MIXED, SequenceMixer, with_mixer_precision
from nnunet_mamba.scan_order import ScanDirection, scan_order

BARE, SCALED = "bare", "scaled"
OUTPUTS = (BARE, "residual", "norm", SCALED)
INITIAL_STD = 0.0442  # of Mamba's M(x) with one direction, measured


class TokenLayer(NamedTuple):
    """Layer over tokens, and the norm before it.

    make  make(features, directions, **options) returns a module (tokens (b, l, features), grid) -> (b, l,
          features), where l = prod(grid)
    key   name of its weights in a state dict, beside those of `norm`
    norm  norm(features) returns the norm
    """

    make: Callable[..., nn.Module]
    key: str
    norm: Callable[[int], nn.Module] = nn.LayerNorm


LAYERS = {
    "mamba": TokenLayer(Mamba, "mamba"),
    "mamba2": TokenLayer(Mamba2, "mamba"),
    "mlstm": TokenLayer(MLSTM, "mlstm", OffsetLayerNorm),
    "attention": TokenLayer(Attention, "attention"),
}
# kinds that are no such layer: make(channels, ndim, order=..., local=..., **options) returns a mixer on maps
MIXERS: dict[str, Callable[..., nn.Module]] = {
    "mamba_trans": MambaTransMixer,
    "large_kernel": LargeKernelMixer,
}
KINDS = (*LAYERS, *MIXERS)


def outputs_of(kind: str, local: bool = False) -> tuple[str, ...]:
    """Return the words of `mixer_output` that a kind of mixer has."""
    if kind not in LAYERS:
        return (BARE,)
    return OUTPUTS if kind == "mamba" and not local else tuple(word for word in OUTPUTS if word != SCALED)


def settings_of(make: Callable[..., nn.Module]) -> dict[str, Any]:
    """Return the settings of a mixer's or a layer's constructor, and their defaults."""
    parameters = inspect.signature(make).parameters.values()
    common = ("order", "local", *Place._fields)
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in common]
    return {p.name: p.default for p in own}


class Place(NamedTuple):
    """Place of a mixer in a network, of which a kind of `MIXERS` may ask for what it needs by name.

    level  number of the stage, counted from 1 at the bottleneck
    grid   voxels per axis in training; None if unknown
    """

    level: int
    grid: Grid | None


def build_mixer(kind: str, channels: int, ndim: int, place: Place, **options: Any) -> nn.Module:
    """Build a mixer on maps of `channels` channels and `ndim` axes; options are `order`, `mixer_output`,
    `local` and those of the kind."""
    if kind in LAYERS:
        return VoxelMixer(channels, ndim, kind=kind, **options)
    asked = inspect.signature(MIXERS[kind]).parameters
    needed = {name: value for name, value in place._asdict().items() if name in asked}
    return MIXERS[kind](channels, ndim, **needed, **options)


class TokenMixer(SequenceMixer):
    """Mixer M(x) = layer(norm(t)) on tokens t that a subclass makes of x; `mixer_output` sets its output.

    Args:
        features: number of features of a token.
        directions: scan directions over the tokens.
        channels, ndim: channels and grid axes of x.
        kind: a name of `LAYERS`.
        mixer_output: a word of `outputs_of(kind)`.
        local: put a `MatchedConv` over the grid of x in the layer's place, under the name "conv".
        options: of the layer, such as d_state.
    """

    def __init__(
        self,
        features: int,
        directions: tuple[ScanDirection, ...],
        channels: int,
        ndim: int,
        *,
        kind: str = "mamba",
        mixer_output: str = BARE,
        local: bool = False,
        **options: Any,
    ):
        super().__init__()
        assert mixer_output in outputs_of(kind, local)
        make, self.key, norm = LAYERS[kind]
        self.norm = norm(features)
        layer: Any = make(features, directions, **options)
        self.local = local
        if local:
            self.key, layer = "conv", MatchedConv(channels, ndim, replaced=layer)
            self.mixer_precision = MIXED
        self.add_module(self.key, layer)
        self.residual = mixer_output == "residual"
        self.out_norm = NORM[ndim](channels, affine=True) if mixer_output == "norm" else nn.Identity()
        if mixer_output == SCALED:
            with torch.no_grad():
                layer.out_proj.weight.div_(INITIAL_STD * math.sqrt(len(directions)))

    @property
    def layer(self) -> nn.Module:
        """The layer over tokens."""
        return self.get_submodule(self.key)

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        mixed = self.out_norm(self.mix(x))
        return x + mixed if self.residual else mixed

    def mix(self, x: Tensor) -> Tensor:
        """Return M(x), of the shape of x."""
        raise NotImplementedError


class VoxelMixer(TokenMixer):
    """Mixer with voxels as tokens and channels as their features; `order` is a name of `scan_order`."""

    def __init__(self, channels: int, ndim: int, *, order: str = "uni", **options: Any):
        super().__init__(channels, scan_order(order, ndim), channels, ndim, **options)

    def mix(self, x: Tensor) -> Tensor:
        return to_map(self.layer(self.norm(to_tokens(x)), tuple(x.shape[2:])), x)


class ChannelMixer(TokenMixer):
    """Mixer with channels as tokens and the voxels of a grid of fixed size as their features.

    U-Mamba Enc uses it where a grid has no more voxels than channels [1, code].
    """

    def __init__(self, channels: int, grid: Grid, *, order: str = "uni", **options: Any):
        directions = tuple(
            ScanDirection((0,), direction.reverse) for direction in scan_order(order, len(grid))
        )
        super().__init__(math.prod(grid), directions, channels, len(grid), **options)
        self.grid = grid

    def mix(self, x: Tensor) -> Tensor:
        if math.prod(x.shape[2:]) != math.prod(self.grid):
            raise ValueError(
                f"This network takes channels as tokens where its grid was {self.grid} in training; now it "
                f"is {tuple(x.shape[2:])}. Use patches of the size that it was built with."
            )
        tokens = self.norm(x.flatten(2))
        if self.local:
            return to_map(self.layer(tokens.transpose(1, 2), tuple(x.shape[2:])), x)
        return self.layer(tokens, (x.shape[1],)).view(x.shape)
