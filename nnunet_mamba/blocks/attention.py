"""Multi-head self-attention on the tokens of a voxel grid, in windows where the grid is long.

b batch, l = prod(grid) tokens, C channels, h heads of p channels.

[1] Dosovitskiy et al., An image is worth 16x16 words (ViT), arXiv:2010.11929: the layer, its initialisation.
[2] Heo et al., Rotary position embedding for vision transformer, arXiv:2403.13298: axial rotary positions.
[3] Liu et al., Swin transformer, arXiv:2103.14030: attention within windows; here they are not shifted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.tokens import Grid
from nnunet_mamba.ops.precision import accumulation_dtype, clamp_to_float16
from nnunet_mamba.scan_order import ScanDirection

BASE = 100.0  # of the frequencies [2]


def attention_window(grid: Grid, max_tokens: int) -> Grid:
    """Return the edges of the largest of the windows that a grid is cut into for attention.

    The axis whose edge is the longest (of equals the first) is cut into one window more until no window has
    more than `max_tokens`. The edges along an axis of n windows are size / n, rounded up or down.
    """
    counts = [1] * len(grid)
    while math.prod(edges := _edges(grid, counts)) > max_tokens:
        counts[edges.index(max(edges))] += 1
    return edges


def _edges(grid: Grid, counts: list[int]) -> Grid:
    """Return the longest edge of the windows on each axis."""
    return tuple(-(-size // count) for size, count in zip(grid, counts, strict=True))


def _runs(size: int, edge: int) -> list[tuple[int, int]]:
    """Return (number, edge) of equal windows along an axis: the fewest that `edge` allows, the longer ones
    first."""
    count = -(-size // edge)
    shorter, longer = divmod(size, count)
    runs = [(longer, shorter + 1), (count - longer, shorter)]
    return [run for run in runs if run[0]]


def map_windows(function: Callable[[Tensor], Tensor], x: Tensor, window: Grid, axis: int = 1) -> Tensor:
    """Apply a function to all windows of x (b, *grid, ...), those of equal shape at once.

    The function maps (windows, *edges, ...) to (windows, *edges, ...).
    """
    if axis > len(window):
        return function(x)
    runs, mapped = _runs(x.shape[axis], window[axis - 1]), []
    parts = x.split([count * edge for count, edge in runs], axis)
    for part, run in zip(parts, runs, strict=True):
        windows = part.unflatten(axis, run).movedim(axis, 1).flatten(0, 1)
        y = map_windows(function, windows, window, axis + 1)
        mapped.append(y.unflatten(0, (len(x), -1)).movedim(1, axis).flatten(axis, axis + 1))
    return torch.cat(mapped, axis) if len(mapped) > 1 else mapped[0]


def pairs_per_axis(headdim: int, n_axes: int) -> int:
    """Return the pairs of a head's channels that turn along each axis. Raises ValueError if there is none."""
    if headdim < 2 * n_axes:
        raise ValueError(
            f"Heads of {headdim} channels have no room for positions on {n_axes} axes; use a headdim of at "
            f"least {2 * n_axes}."
        )
    return headdim // (2 * n_axes)


def rotary_angles(grid: Grid, headdim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the angles that pairs of a head's channels turn by at each voxel, (*grid, headdim // 2).

    Each of k axes has n = headdim // (2 k) pairs; pair j turns by BASE^(-j / n) per voxel along its axis
    [2]. The pairs left over turn by 0: they see content alone. Raises ValueError if n is 0.
    """
    n_pairs = pairs_per_axis(headdim, len(grid))
    frequencies = BASE ** (-torch.arange(n_pairs, device=device, dtype=dtype) / n_pairs)
    coordinates = [torch.arange(size, device=device, dtype=dtype) for size in grid]
    axes = [x[..., None] * frequencies for x in torch.meshgrid(*coordinates, indexing="ij")]
    return F.pad(torch.cat(axes, -1), (0, headdim // 2 - n_pairs * len(grid)))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn channel j and channel j + p // 2 of each head by the pair's angle; the last of an odd p stays.

    Shape: x (..., p), angles (..., p // 2) -> (..., p), in x's dtype.
    """
    first, second, rest = x.tensor_split((angles.shape[-1], 2 * angles.shape[-1]), -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1).to(x.dtype)


def attend(qkv: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(p)) v among the tokens of each window, (w, *edges, 3, h, p) ->
    (w, *edges, h, p)."""
    q, k, v = qkv.flatten(1, -4).permute(2, 0, 3, 1, 4)  # (w, h, tokens, p)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*qkv.shape[:-3], *qkv.shape[-2:])


class Attention(nn.Module):
    """Multi-head self-attention [1] with axial rotary positions [2]; (b, l, C) -> (b, l, C).

    Its tokens have no order; positions are relative, so it takes grids of any size. There are
    ceil(C / headdim) heads. Cost: O(l min(l, max_tokens)).

    Args:
        features: C.
        directions: of other layers over tokens; here only their axes count, to check headdim.
        headdim: channels of a head, at least two per axis of the grid (see `rotary_angles`).
        max_tokens: voxels that attend to each other, at most: see `attention_window`.
    """

    def __init__(
        self,
        features: int,
        directions: tuple[ScanDirection, ...] = (),
        *,
        headdim: int = 32,
        max_tokens: int = 4096,
    ):
        super().__init__()
        pairs_per_axis(headdim, max((len(direction.axes) for direction in directions), default=1))
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; a window has at least 1 token.")
        self.headdim, self.max_tokens = headdim, max_tokens
        inner = headdim * math.ceil(features / headdim)
        self.qkv = nn.Linear(features, 3 * inner)
        self.proj = nn.Linear(inner, features)
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        qkv = self.qkv(tokens).unflatten(1, grid).unflatten(-1, (3, -1, self.headdim))
        angles = rotary_angles(grid, self.headdim, tokens.device, accumulation_dtype(tokens))
        turned = rotate(qkv[..., :2, :, :], angles[..., None, None, :])
        qkv = torch.cat([turned, qkv[..., 2:, :, :]], -3)
        y = map_windows(attend, qkv, attention_window(grid, self.max_tokens))
        return clamp_to_float16(self.proj(y.flatten(-2).flatten(1, -2)))
