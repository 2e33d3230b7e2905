"""Convolution with as many parameters as a layer over tokens: the layer of size-matched twins.

b batch, l = prod(grid) tokens, C channels, h hidden channels, n axes of the grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.convolution import CONV
from nnunet_mamba.blocks.tokens import Grid
from nnunet_mamba.ops.precision import clamp_to_float16

KERNEL = 3  # per axis: a token sees its neighbours alone


class MatchedConv(nn.Module):
    """Inverted bottleneck W_out silu(conv(W_in t)) with a depthwise convolution over the grid;
    (b, l, C) -> (b, l, C).

    A hidden channel has 2 C + 3^n + 1 parameters, and h is what brings their sum nearest to the count of
    `replaced`: at most half a hidden channel more or less, but h is at least 1. Operations per token follow
    parameters in both, so these are about as many, too.

    A mixer with this layer is `mixed` from the start (`SequenceMixer.mixer_precision`): under autocast the
    layer runs in half precision, as the convolutions around the mixer do. A scan sums over thousands of
    tokens, and is computed in float32 for that; here there are 3^n.
    """

    def __init__(self, channels: int, ndim: int, replaced: nn.Module):
        super().__init__()
        of_hidden = 2 * channels + KERNEL**ndim + 1
        hidden = max(1, round(sum(p.numel() for p in replaced.parameters()) / of_hidden))
        self.in_proj = nn.Linear(channels, hidden, bias=False)
        self.conv = CONV[ndim](hidden, hidden, KERNEL, padding=KERNEL // 2, groups=hidden)
        self.out_proj = nn.Linear(hidden, channels, bias=False)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        inner = self.in_proj(tokens).transpose(1, 2).unflatten(2, grid)
        inner = F.silu(clamp_to_float16(self.conv(inner)))
        return clamp_to_float16(self.out_proj(inner.flatten(2).transpose(1, 2)))
