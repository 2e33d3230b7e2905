"""The vector arithmetic under the kernels, over the whole range of its inputs."""

import numpy as np
import pytest
from numba import from_dtype, njit

from nnunet_mamba.ops.simd import _FORMATS, VECTOR, row_operation


@row_operation
def exp2_row(row, width, x, y):
    for at in row.lanes(width):
        row.store(y, at, row.exp2(row.load(x, at)))


@row_operation
def clamp_row(row, width, x, y):
    for at in row.lanes(width):
        row.store(y, at, row.load(x, at).at_least(-1.0).at_most(1.0))


@row_operation
def sum_rows(row, n, begun, x, y):
    """y[j] = sum of row j of x (n, one vector), four at a time; plus what y held if `begun`"""
    for j, rows in row.groups(n, 4):
        vectors = [row.load(x, row.slot(row.plus(j, k))) for k in range(rows)]
        row.add_folded(y, j, row.fold(vectors), rows, begun)


@njit
def call_exp2(tag, width, x, y):
    exp2_row(tag, width, x, y)


@njit
def call_clamp(tag, width, x, y):
    clamp_row(tag, width, x, y)


@njit
def call_sums(tag, n, begun, x, y):
    sum_rows(tag, n, begun, x, y)


def apply(kernel, x, n_out=None):
    assert x.size % VECTOR == 0
    y = np.zeros(n_out or x.size, x.dtype)
    kernel(x.dtype.type(0), x.size, x.ctypes.data, y.ctypes.data)
    return y


@pytest.mark.parametrize(("dtype", "lowest", "bound"), [(np.float32, -126, 2e-7), (np.float64, -1022, 4e-16)])
def test_exp2_is_exact_to_rounding(dtype, lowest, bound):
    x = np.linspace(lowest, -lowest, 64 * 1000).astype(dtype)
    y = apply(call_exp2, x)
    truth = np.exp2(x.astype(np.longdouble))
    assert np.max(np.abs(y - truth) / truth) < bound
    whole = np.arange(-32, 32).astype(dtype)
    assert np.array_equal(apply(call_exp2, whole), np.exp2(whole))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_far_out_stays_tiny_or_huge_and_nan_stays_nan(dtype):
    x = np.array([-1e30, -np.inf, 1e30, np.inf, np.nan, *[0] * 11], dtype)
    y = apply(call_exp2, x)
    smallest, largest = np.finfo(dtype).tiny, np.finfo(dtype).max
    assert (y[:2] <= 2 * smallest).all()
    assert (y[2:4] > largest / 4).all()
    assert np.isnan(y[4])
    assert (y[5:] == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_keep_nan(dtype):
    x = np.array([-3, -1, 0.5, 1, 7, np.nan, np.inf, -np.inf, *[0] * 8], dtype)
    assert np.array_equal(
        apply(call_clamp, x)[:8], np.array([-1, -1, 0.5, 1, 1, np.nan, 1, -1], dtype), equal_nan=True
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_the_sum_over_lanes_takes_every_lane_once(dtype, n):
    """Lane i of row j is 2**i, j + 1 times, so every subset of lanes has its own sum."""
    lanes = _FORMATS[from_dtype(np.dtype(dtype))].vector.count
    x = (np.arange(1, n + 1)[:, None] * 2.0 ** np.arange(lanes)).astype(dtype)
    y, truth = np.full(n, np.nan, dtype), np.arange(1, n + 1) * (2**lanes - 1)
    call_sums(dtype(0), n, 0, x.ctypes.data, y.ctypes.data)
    assert np.array_equal(y, truth)
    call_sums(dtype(0), n, 1, x.ctypes.data, y.ctypes.data)
    assert np.array_equal(y, 2 * truth)
