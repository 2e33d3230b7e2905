"""Walks over a voxel grid: in which order a feature map is read as a sequence.

L = prod(grid) tokens, numbered in C order (last axis fastest). Grid axes are called D, H, W in 3D and H, W
in 2D; a raster order is their names from slowest to fastest: "DHW" is memory order, "-DHW" its reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

AXES = {2: "HW", 3: "DHW"}


@dataclass(frozen=True)
class ScanPath:
    """One walk: grid axes from slowest to fastest, optionally from the far corner."""

    axes: tuple[int, ...]
    backwards: bool = False

    def rows(self, grid: tuple[int, ...], device: torch.device | None = None) -> Tensor | None:
        """The token that each step of the forward walk visits, int32 (L,); None stands for memory order.

        `backwards` is not applied: the operators walk a table in either direction.
        """
        if self.axes == tuple(range(len(grid))):
            return None
        n_tokens = torch.Size(grid).numel()
        return (
            torch.arange(n_tokens, dtype=torch.int32, device=device).view(grid).permute(self.axes).flatten()
        )


def scan_order(name: str, ndim: int) -> tuple[ScanPath, ...]:
    """The walks that `name` stands for on a grid of `ndim` axes (2 or 3).

    uni     memory order
    bi      memory order and its reverse
    multi   every axis fastest once, each forwards and backwards
    raster  all orders of the axes, each forwards and backwards
    or raster orders by their axes, separated by commas, as in "DHW,-DHW,HWD".
    """
    if ndim not in AXES:
        raise ValueError(f"Scan orders exist for grids of 2 or 3 axes, not {ndim}.")
    axes = tuple(range(ndim))
    rotations = [axes[i:] + axes[:i] for i in range(ndim)]
    sets = {
        "uni": [ScanPath(axes)],
        "bi": [ScanPath(axes), ScanPath(axes, backwards=True)],
        "multi": [ScanPath(r, backwards) for r in rotations for backwards in (False, True)],
        "raster": [ScanPath(p, backwards) for p in permutations(axes) for backwards in (False, True)],
    }
    if name in sets:
        return tuple(sets[name])
    rasters = {"".join(AXES[ndim][a] for a in p): p for p in permutations(axes)}
    words = [word.strip() for word in name.split(",")]
    if any(word.removeprefix("-") not in rasters for word in words):
        raise ValueError(
            f"Unknown scan order {name!r} in {ndim}D; choose one of {', '.join(sets)}, or a list of "
            f"{', '.join(rasters)}, each with a leading - for its reverse."
        )
    return tuple(ScanPath(rasters[word.removeprefix("-")], word.startswith("-")) for word in words)
