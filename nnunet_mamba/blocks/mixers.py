"""Sequence mixers on feature maps, (B, C, *grid) -> (B, C, *grid).

`SequenceMixer.mixer_precision` says how much of them is computed in float32. Tokens stay in memory order,
whatever the direction.

For white noise x, the output of a Mamba block with k directions, M(x) = Mamba(LayerNorm(x)), has a standard
deviation of about 0.044 sqrt(k) at initialisation. `mixer_output` is what a `MambaMixer` or `ChannelMixer`
returns:

    bare        M(x)
    residual    x + M(x)
    norm        InstanceNorm(M(x)), affine
    scaled      M(x), its out_proj initialised 1 / (0.044 sqrt(k)) times as large: a deviation of about 1

[1] Ma et al., U-Mamba, arXiv:2401.04722.
[2] Lumetti et al., Taming Mambas for voxel-level 3D medical image segmentation, arXiv:2410.15496.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.convolution import NORM
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.ops.precision import SequenceMixer, clamp_to_float16, with_mixer_precision
from nnunet_mamba.scan_order import ScanDirection, scan_order

Grid = tuple[int, ...]
BARE = "bare"
OUTPUTS = (BARE, "residual", "norm", "scaled")
INITIAL_STD = 0.0442  # of M(x) with one direction, measured


class LayerNormMamba(SequenceMixer):
    """Mixer M(x) = Mamba(LayerNorm(x)) on tokens that a subclass makes of x; `mixer_output` sets its output.

    Args:
        features: number of features of a token.
        directions: scan directions over the tokens.
        channels, ndim: channels and grid axes of x.
        mixer_output: a word of `OUTPUTS`.
        sizes: d_state, d_conv, expand, shared of the Mamba block.
    """

    def __init__(
        self,
        features: int,
        directions: tuple[ScanDirection, ...],
        channels: int,
        ndim: int,
        mixer_output: str = BARE,
        **sizes: Any,
    ):
        super().__init__()
        assert mixer_output in OUTPUTS
        self.norm = nn.LayerNorm(features)
        self.mamba = Mamba(features, directions, **sizes)
        self.residual = mixer_output == "residual"
        self.out_norm = NORM[ndim](channels, affine=True) if mixer_output == "norm" else nn.Identity()
        if mixer_output == "scaled":
            with torch.no_grad():
                self.mamba.out_proj.weight.div_(INITIAL_STD * math.sqrt(len(directions)))

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        mixed = self.out_norm(self.mix(x))
        return x + mixed if self.residual else mixed

    def mix(self, x: Tensor) -> Tensor:
        """Return M(x), of the shape of x."""
        raise NotImplementedError


class MambaMixer(LayerNormMamba):
    """Mixer with voxels as tokens and channels as their features; `order` is a name of `scan_order`."""

    def __init__(self, channels: int, ndim: int, *, order: str = "uni", **options: Any):
        super().__init__(channels, scan_order(order, ndim), channels, ndim, **options)

    def mix(self, x: Tensor) -> Tensor:
        return to_map(self.mamba(self.norm(to_tokens(x)), tuple(x.shape[2:])), x)


class ChannelMixer(LayerNormMamba):
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
        return self.mamba(self.norm(x.flatten(2)), (x.shape[1],)).view(x.shape)


class MambaTrans(nn.Module):
    """Transformer layer with Mamba for attention and a single linear layer for its MLP [2, code];
    (b, l, C) -> (b, l, C).

        t <- t + Mamba(LayerNorm(t));    t <- t + W LayerNorm(t)
    """

    def __init__(self, channels: int, direction: ScanDirection, **sizes: Any):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mamba = Mamba(channels, (direction,), **sizes)
        self.head = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        tokens = clamp_to_float16(tokens + self.mamba(self.norm1(tokens), grid))
        return clamp_to_float16(tokens + self.head(self.norm2(tokens)))


class MambaTransMixer(SequenceMixer):
    """Mixer of one `MambaTrans` per direction, T_k [2, code]. With t the tokens of x:

        1 direction     T_1(LayerNorm(t))
        2 directions    LayerNorm(T_1(LayerNorm(t)) + T_2(LayerNorm(t)))
        more, by pairs  mean of LayerNorm(T_k(t) + T_k+1(t)); no norm before

    Args:
        order: a name of `scan_order`.
        d_state: states per inner channel, but at most `channels`.
        sizes: d_conv, expand of the Mamba blocks.
    """

    def __init__(self, channels: int, ndim: int, *, order: str = "uni", d_state: int = 256, **sizes: int):
        super().__init__()
        directions = scan_order(order, ndim)
        if len(directions) > 1 and len(directions) % 2:
            raise ValueError(
                f"This mixer takes one direction or pairs of them; scan order {order!r} has "
                f"{len(directions)}."
            )
        self.norm = nn.LayerNorm(channels) if len(directions) <= 2 else nn.Identity()
        self.walks = nn.ModuleList(  # by direction; the name is part of checkpoints' keys
            MambaTrans(channels, direction, d_state=min(d_state, channels), **sizes)
            for direction in directions
        )
        self.pair_norms = nn.ModuleList(nn.LayerNorm(channels) for _ in directions[1::2])

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = self.norm(to_tokens(x)), tuple(x.shape[2:])
        if not self.pair_norms:
            return to_map(self.walks[0](tokens, grid), x)
        pairs = zip(self.pair_norms, self.walks[::2], self.walks[1::2], strict=True)
        both = ((norm, there(tokens, grid) + back(tokens, grid)) for norm, there, back in pairs)
        sums = [norm(clamp_to_float16(tokens)) for norm, tokens in both]
        return to_map(sum(sums[1:], sums[0]) / len(sums), x)


def to_tokens(x: Tensor) -> Tensor:
    """Bring a map (b, C, *grid) into the form (b, l, C), in memory order of the grid."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Bring tokens (b, l, C) into the shape (b, C, *grid) of `like`."""
    return tokens.transpose(1, 2).contiguous().view(like.shape)


MIXERS: dict[str, Any] = {"mamba": MambaMixer, "mamba_trans": MambaTransMixer}
