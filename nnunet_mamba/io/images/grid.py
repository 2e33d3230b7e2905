"""Grids: positions of an image's voxels, and how two grids differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-3  # relative for spacings, of a voxel for origins, cosines for directions: lost by rounding
TO_LPS = np.array([-1.0, -1.0, 1.0])  # from the axes of NIfTI (right, anterior, superior) to those of ITK


@dataclass(frozen=True)
class Grid:
    """Positions of an image's voxels, in its header's order (x, y, z), lengths in mm, axes of ITK (LPS).

    `direction` holds the axes as columns of a matrix, row by row.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of_affine(cls, affine: np.ndarray, size: tuple[int, ...]) -> Grid:
        """Return the grid of a NIfTI affine, (4, 4), from voxels to mm."""
        columns = TO_LPS[:, None] * affine[:3, : min(len(size), 3)]
        spacing = np.linalg.norm(columns, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            axes = columns / spacing
        origin = TO_LPS * affine[:3, 3]
        return cls(size, tuple(spacing.tolist()), tuple(origin.tolist()), tuple(axes.ravel().tolist()))

    @classmethod
    def of_picture(cls, shape: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Grid:
        """Return the grid of an array without a header, of shape (y, x) or (z, y, x); `spacing` likewise."""
        n = len(shape)
        spacing = spacing or (1.0,) * n
        return cls(shape[::-1], spacing[::-1], (0.0,) * n, tuple(np.eye(n).ravel().tolist()))

    def difference(self, expected: Grid, cosines: float = TOLERANCE) -> str | None:
        """Return the first property in which two grids differ by more than rounding, with both values; None
        if none.

        `cosines`: how much directions may differ.
        """
        voxel = min(expected.spacing)
        for what, absolute, relative in (
            ("size", 0.0, 0.0),
            ("spacing", 0.0, TOLERANCE),
            ("origin", 10 * TOLERANCE * voxel, 0.0),
            ("direction", cosines, 0.0),
        ):
            a, b = getattr(self, what), getattr(expected, what)
            if len(a) != len(b) or not np.allclose(a, b, atol=absolute, rtol=relative):
                return f"{what}: {rounded(a)} against {rounded(b)}"
        return None

    def reordering(self, other: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]] | None:
        """Return how `other` stores the very same voxels in another order; None if it does not.

        Axis k of this grid runs along axis axes[k] of the other, reversed where flipped[k].
        """
        n = len(self.size)
        if len(other.size) != n or len(self.direction) != n * n or len(other.direction) != n * n:
            return None
        ours, theirs = (np.reshape(grid.direction, (n, n)) * grid.spacing for grid in (self, other))
        if not np.linalg.det(ours):  # axes that are parallel, or of length 0
            return None
        steps = np.linalg.solve(ours, theirs)  # (ours, theirs): indices here per index there
        turns = np.rint(steps)
        is_permutation = (np.abs(turns).sum(0) == 1).all() and (np.abs(turns).sum(1) == 1).all()
        if not is_permutation or not np.allclose(steps, turns, atol=TOLERANCE):
            return None
        axes = tuple(int(np.abs(row).argmax()) for row in turns)
        flipped = tuple(bool(turns[k, axis] < 0) for k, axis in enumerate(axes))
        first = np.linalg.solve(ours, np.subtract(other.origin, self.origin))
        expected = [size - 1 if back else 0 for size, back in zip(self.size, flipped, strict=True)]
        same_size = tuple(other.size[axis] for axis in axes) == self.size
        return (axes, flipped) if same_size and np.allclose(first, expected, atol=10 * TOLERANCE) else None

    def reorder(self, values: np.ndarray, other: Grid) -> np.ndarray:
        """Return `values`, (z, y, x) of `other`, in the order of this grid, where only the order differs."""
        found = self.reordering(other)
        if found is None:
            return values
        axes, flipped = found
        if axes == tuple(range(len(axes))) and not any(flipped):
            return values
        turned = values.T.transpose(axes)  # (x, y, z)
        return np.flip(turned, tuple(k for k, back in enumerate(flipped) if back)).T

    def first_channel(self) -> Grid:
        """Return the grid of one channel of a 4D image, whose channels are last."""
        if len(self.size) < 4:
            return self
        turned = tuple(self.direction[4 * row + column] for row in range(3) for column in range(3))
        return Grid(self.size[:3], self.spacing[:3], self.origin[:3], turned)


def rounded(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number + 0.0:.6g}" for number in numbers) + ")"
