"""Grids that hold the same voxels in another order, found and undone."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from tiny_files import DIRECTION, ORIGIN_MM, SPACING_MM

from nnunet_mamba.io.images import Grid

GRID = Grid((3, 4, 5), SPACING_MM, ORIGIN_MM, DIRECTION)


def reordered(axes, flips) -> tuple[Grid, np.ndarray]:
    """GRID with axis k running along its axis axes[k], and its voxels' numbers in that order, (z, y, x)."""
    numbers = np.arange(60).reshape(5, 4, 3).T  # x, y, z
    columns = np.reshape(DIRECTION, (3, 3))[:, list(axes)]
    origin = np.array(ORIGIN_MM)
    for k, axis in enumerate(axes):
        if flips[k]:
            origin = origin + columns[:, k] * SPACING_MM[axis] * (GRID.size[axis] - 1)
            columns[:, k] *= -1
    numbers = np.flip(numbers.transpose(axes), [k for k in range(3) if flips[k]])
    size, spacing = ([one[axis] for axis in axes] for one in (GRID.size, SPACING_MM))
    return Grid(tuple(size), tuple(spacing), tuple(origin), tuple(columns.ravel())), numbers.T


@pytest.mark.parametrize("axes", [*permutations(range(3))])
@pytest.mark.parametrize("flips", [*product((False, True), repeat=3)])
def test_every_order_is_undone(axes, flips):
    other, values = reordered(axes, flips)
    assert GRID.reordering(other) is not None
    assert np.array_equal(GRID.reorder(values, other), np.arange(60).reshape(5, 4, 3))


@pytest.mark.parametrize(
    "change",
    [
        {"origin": (0, 5, 30)},
        {"spacing": (0.8, 0.9, 5.0)},
        {"size": (3, 4, 6)},
        {"direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)},
        {"direction": tuple(-number for number in DIRECTION)},
    ],
)
def test_other_voxels_are_in_no_order(change):
    other = replace(GRID, **change)
    assert GRID.reordering(other) is None
    values = np.arange(60)
    assert GRID.reorder(values, other) is values


def test_the_difference_names_the_first_thing_and_both_values():
    assert GRID.difference(GRID) is None
    assert GRID.difference(replace(GRID, spacing=(0.8, 0.9, 5.0))) == (
        "spacing: (0.8, 0.9, 2.5) against (0.8, 0.9, 5)"
    )
    assert GRID.difference(replace(GRID, origin=(-10.0, 5.0, 31.0))).startswith("origin: (-10, 5, 30)")


def test_a_grid_whose_axes_are_parallel_has_no_order():
    parallel = replace(GRID, direction=(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    assert parallel.reordering(GRID) is None and GRID.reordering(parallel) is None
