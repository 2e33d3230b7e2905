"""LKM-UNet's mixer: bidirectional Mamba over parts of a map, then over a pooled map.

[1] Wang et al., Large window-based Mamba U-Net (LMa-UNet, later LKM-UNet), arXiv:2403.07332, code of June
    2024.
"""

from __future__ import annotations

import logging
import math
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.convolution import AVG_POOL
from nnunet_mamba.blocks.mamba import SelectiveSSM, scan_directions
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.tokens import Grid, to_map, to_tokens
from nnunet_mamba.ops.precision import MIXED, SequenceMixer, clamp_to_float16, with_mixer_precision
from nnunet_mamba.scan_order import ScanDirection, scan_order

PARTS = {2: (5, 5), 3: (5, 7, 6)}  # per axis, times a power of two: made for one dataset [1, code]
WINDOWS = ("lattice", "nearest", "contiguous", "whole")
_logger = logging.getLogger("nnunet_mamba")


class GatedSSM(SelectiveSSM):
    """Mamba without its projection out: (b, l, C) -> (b, l, E) in one direction."""

    def __init__(self, channels: int, direction: ScanDirection, d_state: int, d_conv: int, expand: int):
        super().__init__(expand * channels, d_state, d_conv, math.ceil(channels / 16))
        self.direction = direction
        self.in_proj = nn.Linear(channels, 2 * expand * channels, bias=False)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        return scan_directions([(self, self.direction)], x, z, grid)


class SeparateMamba(nn.Module):
    """Layer W_out sum_k S_k(LayerNorm(t)): directions share the projection out alone; (b, l, C) -> (b, l, C).

    `Mamba` with several directions shares projections in and gates, too. If `local`, a `MatchedConv` over the
    grid takes the place of all but the norm.
    """

    def __init__(
        self, channels: int, ndim: int, directions: tuple[ScanDirection, ...], local: bool, **sizes: int
    ):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        walks = nn.ModuleList(GatedSSM(channels, direction, **sizes) for direction in directions)
        out_proj = nn.Linear(sizes["expand"] * channels, channels, bias=False)
        self.local = local
        if local:
            self.conv = MatchedConv(channels, ndim, replaced=nn.ModuleList([walks, out_proj]))
        else:
            self.walks, self.out_proj = walks, out_proj

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = self.norm(to_tokens(x)), tuple(x.shape[2:])
        if self.local:
            return to_map(self.conv(tokens, grid), x)
        walks = [walk(tokens, grid) for walk in self.walks]
        return to_map(clamp_to_float16(self.out_proj(clamp_to_float16(sum(walks[1:], walks[0])))), x)


class LargeKernelMixer(SequenceMixer):
    """Mixer x <- x + P(x), then x <- x + W(x) [1, code], both `SeparateMamba`.

    P scans parts of the map, each by itself: a part is every m-th voxel of each axis, a lattice over the
    whole map, where [1] describes contiguous windows. W scans the map after average pooling by `scale`; its
    output is enlarged to the nearest voxel. A map that they do not divide is taken whole.

    Args:
        level: number of the stage, counted from 1 at the bottleneck.
        grid: of the stage in training, if known: see `warn_of_whole_maps`.
        windows: the parts of P. lattice: as in the code; nearest: lattices that divide any map, by the
            divisors nearest to the code's numbers; contiguous: windows of as many voxels; whole: none.
        local: both layers are local, on the whole map: no parts, and no pooling.
    """

    def __init__(
        self,
        channels: int,
        ndim: int,
        *,
        level: int,
        grid: Grid | None = None,
        order: str = "bi",
        windows: str = "lattice",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        local: bool = False,
    ):
        super().__init__()
        if windows not in WINDOWS:
            raise ValueError(f"windows: unknown {windows!r}; choose from {', '.join(WINDOWS)}.")
        if local:
            level, windows, self.mixer_precision = 1, "whole", MIXED
        directions = scan_order(order, ndim)
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        self.pixel = SeparateMamba(channels, ndim, directions, local, **sizes)
        self.window = SeparateMamba(channels, ndim, directions, local, **sizes)
        self.scale, self.windows = 2 ** ((level + 1) // 2 - 1), windows
        self.pool = AVG_POOL[ndim](self.scale)
        self.grid = grid

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        x = clamp_to_float16(x + self.scan_parts(x))
        return clamp_to_float16(x + self.scan_pooled(x))

    def parts(self, grid: Grid) -> Grid:
        """Return the period of the lattice, or the voxels of a window, per axis; ones for the whole map."""
        wanted = lattice_period(self.scale, len(grid))
        if self.windows == "whole":
            return (1,) * len(grid)
        if self.windows == "lattice":
            divides = all(size % part == 0 for size, part in zip(grid, wanted, strict=True))
            return wanted if divides else (1,) * len(grid)
        return tuple(_nearest_divisor(size, part) for size, part in zip(grid, wanted, strict=True))

    def scan_parts(self, x: Tensor) -> Tensor:
        """Return P(x)."""
        parts, contiguous = self.parts(tuple(x.shape[2:])), self.windows == "contiguous"
        if math.prod(parts) == 1:
            return self.pixel(x)
        return join(self.pixel(split(x, parts, contiguous)), parts, x, contiguous)

    def scan_pooled(self, x: Tensor) -> Tensor:
        """Return W(x)."""
        if any(size % self.scale for size in x.shape[2:]):
            return self.window(x)
        return F.interpolate(self.window(self.pool(x)), scale_factor=float(self.scale), mode="nearest")


def lattice_period(scale: int, ndim: int) -> Grid:
    """Return the period of the code's lattice per axis, which a map may not be a multiple of."""
    return tuple(scale * size for size in PARTS[ndim])


def warn_of_whole_maps(network: nn.Module) -> None:
    """Warn if maps of a network are one sequence in training where lattices do not divide them: of the first
    one, which is the largest. Of another network with the same map there is no second warning."""
    mixers = [m for m in network.modules() if isinstance(m, LargeKernelMixer) and m.windows == "lattice"]
    for mixer in mixers:
        if mixer.grid is not None and math.prod(mixer.parts(mixer.grid)) == 1:
            _warn_of_whole_map(mixer.grid, mixer.scale)
            return


@cache
def _warn_of_whole_map(grid: Grid, scale: int) -> None:
    _logger.warning(
        "The lattices of LKM-UNet, every %s voxels, do not divide a map of %s: its %s voxels are one "
        "sequence, as in the authors' code. windows='nearest' takes others, 'contiguous' windows.",
        lattice_period(scale, len(grid)),
        grid,
        math.prod(grid),
    )


def split(x: Tensor, parts: Grid, contiguous: bool) -> Tensor:
    """Split a map (b, C, *grid) into parts, along the batch.

    With m = parts: lattices of every m-th voxel (b prod(m), C, *grid / m), or, if contiguous, windows of m
    voxels (b prod(grid / m), C, *m).
    """
    shape, axes = _cut(x, parts, contiguous)
    return x.reshape(shape).permute(axes).flatten(0, len(parts))


def join(split_map: Tensor, parts: Grid, like: Tensor, contiguous: bool) -> Tensor:
    """Join the parts to a map of the shape of `like`: the inverse of `split`."""
    shape, axes = _cut(like, parts, contiguous)
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return split_map.reshape([shape[axis] for axis in axes]).permute(inverse).reshape(like.shape)


def _cut(x: Tensor, parts: Grid, contiguous: bool) -> tuple[list[int], tuple[int, ...]]:
    """Return the shape (b, C, grid_1 / m_1, m_1, grid_2 / m_2, ...) of a map, and its axes in the order of
    batch, parts, C, voxels of a part."""
    shape = list(x.shape[:2])
    for size, part in zip(x.shape[2:], parts, strict=True):
        shape += [size // part, part]
    coarse, fine = range(2, len(shape), 2), range(3, len(shape), 2)
    return shape, (0, *coarse, 1, *fine) if contiguous else (0, *fine, 1, *coarse)


def _nearest_divisor(size: int, wanted: int) -> int:
    """Return the divisor of a size that is nearest to a number, the smaller one of two."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return min(divisors, key=lambda n: (abs(n - wanted), n))
