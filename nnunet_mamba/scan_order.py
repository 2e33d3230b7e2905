"""Scan orders: the orders in which a feature map is read as a sequence of tokens.

A scan order is a name that stands for one or more directions; a direction gives the token index of each step.

L = prod(grid) tokens, numbered in C order (last axis fastest). Grid axes are called D, H, W in 3D and H, W
in 2D; a raster order is their names from slowest to fastest: "DHW" is memory order, "-DHW" its reverse. The
letters a to p are those of fig. 3 of [1], B1 to B9 the rows of its table of scan orders.

[1] Xie et al., MM-UNet, arXiv:2503.17540.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

AXES = {2: "HW", 3: "DHW"}
WINDOW = 4  # edge of the windows of (n), of which [1] gives no size


@dataclass(frozen=True)
class ScanDirection:
    """Direction of a scan: an order of the tokens, optionally from the last to the first.

    pattern   `raster` over `axes` from slowest to fastest, or a name of PATTERNS, or `slices`: raster in
              which each slice of the first axis is a sequence of its own
    n         number of the pattern: the edge of its windows, its interleaved pieces
    """

    axes: tuple[int, ...]
    reverse: bool = False
    pattern: str = "raster"
    n: int = 0

    def n_sequences(self, grid: tuple[int, ...]) -> int:
        """Return the number of sequences, one after the other in memory, that the direction divides the
        tokens into."""
        return grid[0] if self.pattern == "slices" else 1

    def token_indices(self, grid: tuple[int, ...], device: torch.device | None = None) -> Tensor | None:
        """Return the token of each step, int32 (L,), a permutation; None stands for memory order.

        `reverse` is not applied: the operators read the indices from either end.
        """
        if self.pattern == "slices" or (self.pattern == "raster" and self.axes == tuple(range(len(grid)))):
            return None
        tokens = torch.arange(math.prod(grid), dtype=torch.int32, device=device)
        if self.pattern == "raster":
            return tokens.view(grid).permute(self.axes).flatten()
        times = PATTERNS[self.pattern].times(tokens.long(), grid, self.n)
        return (times * len(tokens) + tokens).argsort().int()  # no two alike: ONNX has no stable sort


def _windows(tokens: Tensor, grid: tuple[int, ...], edge: int) -> Tensor:
    """Return times of a raster over windows, and within each; windows at the far ends may be smaller."""
    where = _coordinates(tokens, grid)
    time = torch.zeros_like(tokens)
    for x, size in zip(where, grid, strict=True):
        time = time * -(-size // edge) + x // edge
    for x in where:
        time = time * edge + x % edge
    return time


def _zigzag(tokens: Tensor, grid: tuple[int, ...], n: int) -> Tensor:
    """Return times of rows and slices in turn forwards and backwards, so that each step goes to a
    neighbour."""
    time = torch.zeros_like(tokens)
    for x, size in zip(_coordinates(tokens, grid), grid, strict=True):
        time = time * size + torch.where(time % 2 == 0, x, size - 1 - x)
    return time


def _diagonal(tokens: Tensor, grid: tuple[int, ...], n: int) -> Tensor:
    """Return times of diagonal planes of constant d + h + w, each in memory order."""
    return torch.stack(_coordinates(tokens, grid)).sum(0)


def _interleave(tokens: Tensor, grid: tuple[int, ...], n: int) -> Tensor:
    """Return times of n equal pieces of the sequence (the last may be shorter) that take turns token by
    token.

    SegMamba, arXiv:2401.13560, scans across slices like this.
    """
    piece = -(-len(tokens) // n)
    return tokens % piece * n + tokens // piece


@dataclass(frozen=True)
class Pattern:
    """Order that is no raster.

    times  (tokens int64 (L,), grid, n) -> the time of each token, in any increasing numbers
    n      what `times` gets; None: the number behind the name, as in interleave8
    """

    times: Callable[[Tensor, tuple[int, ...], int], Tensor]
    n: int | None = 0


PATTERNS = {
    "windows": Pattern(_windows, n=WINDOW),
    "zigzag": Pattern(_zigzag),
    "diagonal": Pattern(_diagonal),
    "interleave": Pattern(_interleave, n=None),
}


def _coordinates(tokens: Tensor, grid: tuple[int, ...]) -> list[Tensor]:
    """Return the coordinates of tokens, one tensor per axis."""
    strides = [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]
    return [tokens // stride % size for stride, size in zip(strides, grid, strict=True)]


_LETTERS_2D = {"a": "HW", "b": "-HW", "n": "windows", "o": "zigzag", "p": "diagonal"}
_RASTERS_3D = ("DHW", "DWH", "WDH", "WHD", "HDW", "HWD")  # (a), (c), (e), ... of [1]; their reverses between
LETTERS = {
    2: _LETTERS_2D,
    3: {
        **dict(zip("acegik", _RASTERS_3D, strict=True)),
        **{letter: f"-{word}" for letter, word in zip("bdfhjl", _RASTERS_3D, strict=True)},
        "m": "slices",
        **{letter: _LETTERS_2D[letter] for letter in "nop"},
    },
}
MM_UNET_ROWS = {  # [1]; B6 to B9 are a pattern and its reverse
    "B1": "a",
    "B2": "a,b",
    "B3": "a,b,k",
    "B4": "a,b,c,d,e,f",
    "B5": "a,b,c,d,e,f,g,h,i,j,k,l",
    "B6": "m,-m",
    "B7": "n,-n",
    "B8": "o,-o",
    "B9": "p,-p",
}


def scan_order(name: str, ndim: int) -> tuple[ScanDirection, ...]:
    """Return the directions that `name` stands for on a grid of `ndim` axes (2 or 3).

    uni         memory order
    bi          memory order and its reverse
    multi       every axis fastest once, each forwards and backwards
    raster      all orders of the axes, each forwards and backwards
    B1 ... B9   the rows of MM-UNet's table of scan orders
    or directions separated by commas: raster orders by their axes, as in "DHW,-DHW,HWD"; slices, windows,
    zigzag, diagonal; interleaveN (N pieces in turn); or letters of MM-UNet's fig. 3. A leading - reverses a
    direction.

    Raises ValueError for names that are unknown or make no sense in `ndim` axes.
    """
    if ndim not in AXES:
        raise ValueError(f"Scan orders exist for grids of 2 or 3 axes, not {ndim}.")
    axes = AXES[ndim]
    rotations = [axes[i:] + axes[:i] for i in range(ndim)]
    sets = {
        "uni": axes,
        "bi": f"{axes},-{axes}",
        "multi": _there_and_back(rotations),
        "raster": _there_and_back("".join(p) for p in permutations(axes)),
        **MM_UNET_ROWS,
    }
    try:
        return tuple(_parse_direction(word.strip(), ndim) for word in sets.get(name, name).split(","))
    except KeyError as unknown:
        patterns = ["slices"] * (ndim == 3) + [name + "N" * (p.n is None) for name, p in PATTERNS.items()]
        raise ValueError(
            f"Unknown scan order {name!r} in {ndim}D, which has no direction {unknown}; choose one of "
            f"{', '.join(sets)}, or a list of {', '.join(''.join(p) for p in permutations(axes))}, "
            f"{', '.join(patterns)} and the letters {', '.join(LETTERS[ndim])}, "
            f"each with a leading - for its reverse."
        ) from None


def _there_and_back(words: Iterable[str]) -> str:
    """Return directions by their words, each followed by its reverse."""
    return ",".join(f"{word},-{word}" for word in words)


def _parse_direction(word: str, ndim: int) -> ScanDirection:
    """Return a direction by its word. Raises KeyError if there is none."""
    if word.startswith("-"):
        direction = _parse_direction(word[1:], ndim)
        return replace(direction, reverse=not direction.reverse)
    if word in LETTERS[ndim]:
        return _parse_direction(LETTERS[ndim][word], ndim)
    memory_order = tuple(range(ndim))
    if sorted(word) == sorted(AXES[ndim]):
        return ScanDirection(tuple(AXES[ndim].index(axis) for axis in word))
    if word == "slices" and ndim == 3:
        return ScanDirection(memory_order, pattern=word)
    parts = re.fullmatch("([a-z]+)([1-9][0-9]*)?", word)
    pattern = PATTERNS.get(parts[1]) if parts else None
    if parts is None or pattern is None or (pattern.n is None) != (parts[2] is not None):
        raise KeyError(word)
    return ScanDirection(memory_order, pattern=parts[1], n=int(parts[2] or pattern.n or 0))
