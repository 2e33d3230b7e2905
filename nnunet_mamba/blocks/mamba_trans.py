"""Taming Mambas' mixer: transformer layers with Mamba for attention, one per direction.

[1] Lumetti et al., Taming Mambas for voxel-level 3D medical image segmentation, arXiv:2410.15496.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.tokens import Grid, to_map, to_tokens
from nnunet_mamba.ops.precision import MIXED, SequenceMixer, clamp_to_float16, with_mixer_precision
from nnunet_mamba.scan_order import ScanDirection, scan_order


class MambaTrans(nn.Module):
    """Transformer layer with Mamba for attention and a single linear layer for its MLP [1, code];
    (b, l, C) -> (b, l, C).

        t <- t + Mamba(LayerNorm(t));    t <- t + W LayerNorm(t)

    If `local`, a `MatchedConv` over the grid takes the place of Mamba.
    """

    def __init__(self, channels: int, ndim: int, direction: ScanDirection, local: bool, **sizes: Any):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        mamba = Mamba(channels, (direction,), **sizes)
        self.key = "conv" if local else "mamba"
        self.add_module(self.key, MatchedConv(channels, ndim, replaced=mamba) if local else mamba)
        self.head = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        layer = self.get_submodule(self.key)
        tokens = clamp_to_float16(tokens + layer(self.norm1(tokens), grid))
        return clamp_to_float16(tokens + self.head(self.norm2(tokens)))


class MambaTransMixer(SequenceMixer):
    """Mixer of one `MambaTrans` per direction, T_k [1, code]. With t the tokens of x:

        1 direction     T_1(LayerNorm(t))
        2 directions    LayerNorm(T_1(LayerNorm(t)) + T_2(LayerNorm(t)))
        more, by pairs  mean of LayerNorm(T_k(t) + T_k+1(t)); no norm before

    Args:
        order: a name of `scan_order`.
        d_state: states per inner channel, but at most `channels`.
        d_conv, expand: of the Mamba blocks.
        local: put a `MatchedConv` in the place of each Mamba block.
    """

    def __init__(
        self,
        channels: int,
        ndim: int,
        *,
        order: str = "uni",
        d_state: int = 256,
        d_conv: int = 4,
        expand: int = 2,
        local: bool = False,
    ):
        super().__init__()
        if local:
            self.mixer_precision = MIXED
        directions = scan_order(order, ndim)
        if len(directions) > 1 and len(directions) % 2:
            raise ValueError(
                f"This mixer takes one direction or pairs of them; scan order {order!r} has "
                f"{len(directions)}."
            )
        self.norm = nn.LayerNorm(channels) if len(directions) <= 2 else nn.Identity()
        sizes = {"d_state": min(d_state, channels), "d_conv": d_conv, "expand": expand}
        self.walks = nn.ModuleList(  # by direction; the name is part of checkpoints' keys
            MambaTrans(channels, ndim, direction, local, **sizes) for direction in directions
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
