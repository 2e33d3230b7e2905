"""3x3x3 convolutions of channels-last tensors on CPUs by Winograd's algorithm F(2x2x2, 3x3x3) [1].

A tile of 2x2x2 output voxels is a sum over channels of products of its 4x4x4 input voxels and the weights,
both transformed: 64 multiplications per pair of channels instead of 216. The transforms add and subtract
neighbours along one axis after the other. TILES tiles go together, so that the products are 64 small matrix
products (tiles, inputs) x (inputs, outputs).

Shapes: x (b, c, *grid), channels last in memory; weight (outputs, inputs, 3, 3, 3); a point is a place in the
transformed 4x4x4 voxels.

[1] Lavin and Gray, Fast algorithms for convolutional neural networks, arXiv:1509.09308
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.huge_pages import use_huge_pages
from nnunet_mamba.ops.numba_norm import to_channels_last
from nnunet_mamba.ops.numba_tasks import compiled, run_in_threads, split_tasks
from nnunet_mamba.ops.simd import CACHE_LINE, LANES, VECTOR, RowBuilder, row_operation

SIZE = 4  # bytes of a value
POINTS = 64
TILES = 24  # a multiple of ROWS
ROWS, COLUMNS = 12 * LANES // VECTOR, VECTOR  # of a block of the matrix product: twelve registers
CHANNELS = 32  # that are transformed at once
GAP = (
    16  # values between points, whose distance would else be a power of two and share few lines of the cache
)
FEWEST_VOXELS = 1 << 11  # below, transforming the weights takes too long
TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))  # of three weights


class Problem(NamedTuple):
    """Call as integers: addresses and sizes."""

    x: int
    weight: int  # (points, inputs, outputs)
    bias: int
    y: int
    nx: int
    ny: int
    nz: int
    inputs: int
    outputs: int


class Scratch(NamedTuple):
    """Addresses of a thread's arrays."""

    sources: int  # (points, TILES * inputs + GAP)
    products: int  # (points, TILES * outputs + GAP)
    voxels: int  # (points, CHANNELS)
    zeros: int  # a row of an input voxel
    spare: int  # a row of an output voxel outside the grid


@row_operation
def transform_inputs(row: RowBuilder, width, a, b, c, d, target, step):
    """Write the four points of the rows of four neighbours, `step` values apart."""
    for at in row.lanes(width):
        first, second, third, fourth = (row.load(source, at) for source in (a, b, c, d))
        row.store(target, at, first - third)
        row.store(target, row.index(step, 1, at), second + third)
        row.store(target, row.index(step, 2, at), third - second)
        row.store(target, row.index(step, 3, at), second - fourth)


@row_operation
def transform_products(row: RowBuilder, width, source, step, bias, a, b):
    """Write the rows of two neighbours from four points, `step` values apart, and add a bias."""
    for at in row.lanes(width):
        first, second, third, fourth = (row.load(source, row.index(step, k, at)) for k in range(4))
        summand = row.load(bias, at)
        row.store(a, at, first + second + third + summand)
        row.store(b, at, second - third - fourth + summand)


@row_operation
def multiply(row: RowBuilder, n_rows, inputs, outputs, a, b, target):
    """Write the matrix product of a (n_rows, inputs) and b (inputs, outputs), of whole blocks."""
    vectors = range(0, COLUMNS, row.count)
    for column_block in row.repeat(row.over(outputs, COLUMNS)):
        for row_block in row.repeat(row.over(n_rows, ROWS)):
            rows = [row.index(row_block, ROWS, k) for k in range(ROWS)]
            columns = [row.index(column_block, COLUMNS, k) for k in vectors]
            totals = [[row.variable() for _ in columns] for _ in rows]
            for k in row.repeat(inputs):
                weights = [row.load(b, row.index(k, outputs, column)) for column in columns]
                for at, in_row in zip(rows, totals, strict=True):
                    value = row.broadcast(a, row.index(at, inputs, k))
                    for weight, total in zip(weights, in_row, strict=True):
                        total.value = value.times_plus(weight, total.value)
            for at, in_row in zip(rows, totals, strict=True):
                for column, total in zip(columns, in_row, strict=True):
                    row.store(target, row.index(at, outputs, column), total.value)


@compiled
def convolve_tiles(tag, p, s, first, last):
    """Compute the output voxels of the tiles first..last-1, counted over all items."""
    a_step, c_step = TILES * p.inputs + GAP, TILES * p.outputs + GAP
    for start in range(first, last, TILES):
        n = min(TILES, last - start)
        for k in range(n):
            read_tile(tag, p, s, start + k, s.sources + k * p.inputs * SIZE, a_step)
        rows = -(-n // ROWS) * ROWS
        for point in range(POINTS):
            a, b = s.sources + point * a_step * SIZE, p.weight + point * p.inputs * p.outputs * SIZE
            multiply(tag, rows, p.inputs, p.outputs, a, b, s.products + point * c_step * SIZE)
        for k in range(n):
            write_tile(tag, p, s, start + k, s.products + k * p.outputs * SIZE, c_step)


@compiled
def locate(p, tile):
    """Return a tile's item and its first voxel along the axes."""
    ny, nz = (p.ny + 1) // 2, (p.nz + 1) // 2
    rest, z = tile // nz, tile % nz
    rest, y = rest // ny, rest % ny
    nx = (p.nx + 1) // 2
    return rest // nx, 2 * (rest % nx), 2 * y, 2 * z


@compiled
def row_at(p, start, item, x, y, z, n_channels, otherwise):
    """Return the address of a voxel's row in a tensor, or another outside the grid."""
    if 0 <= x < p.nx and 0 <= y < p.ny and 0 <= z < p.nz:
        return start + (((item * p.nx + x) * p.ny + y) * p.nz + z) * n_channels * SIZE
    return otherwise


@compiled
def read_tile(tag, p, s, tile, target, step):
    """Transform a tile's 4x4x4 input voxels along z, y and x; points are `step` values apart."""
    item, x, y, z = locate(p, tile)
    for channel in range(0, p.inputs, CHANNELS):
        width = min(CHANNELS, p.inputs - channel)
        size = width * SIZE
        source = p.x + channel * SIZE
        for line in range(16):
            i, j = x - 1 + line // 4, y - 1 + line % 4
            a = row_at(p, source, item, i, j, z - 1, p.inputs, s.zeros)
            b = row_at(p, source, item, i, j, z, p.inputs, s.zeros)
            c = row_at(p, source, item, i, j, z + 1, p.inputs, s.zeros)
            d = row_at(p, source, item, i, j, z + 2, p.inputs, s.zeros)
            transform_inputs(tag, width, a, b, c, d, s.voxels + 4 * line * size, width)
        for line in range(16):
            a = s.voxels + (line // 4 * 16 + line % 4) * size
            transform_inputs(tag, width, a, a + 4 * size, a + 8 * size, a + 12 * size, a, 4 * width)
        for line in range(16):
            a, point = s.voxels + line * size, target + (line * step + channel) * SIZE
            transform_inputs(tag, width, a, a + 16 * size, a + 32 * size, a + 48 * size, point, 16 * step)


@compiled
def write_tile(tag, p, s, tile, source, step):
    """Transform a tile's products along x, y and z to its 2x2x2 output voxels."""
    item, x, y, z = locate(p, tile)
    for channel in range(0, p.outputs, CHANNELS):
        width = min(CHANNELS, p.outputs - channel)
        size = width * SIZE
        for line in range(16):
            a, point = s.voxels + line * size, source + (line * step + channel) * SIZE
            transform_products(tag, width, point, 16 * step, s.zeros, a, a + 16 * size)
        for line in range(8):
            a = s.voxels + (line // 4 * 16 + line % 4) * size
            transform_products(tag, width, a, 4 * width, s.zeros, a, a + 4 * size)
        target = p.y + channel * SIZE
        for line in range(4):
            i, j = line // 2, line % 2
            a = row_at(p, target, item, x + i, y + j, z, p.outputs, s.spare)
            b = row_at(p, target, item, x + i, y + j, z + 1, p.outputs, s.spare)
            point = s.voxels + (16 * i + 4 * j) * size
            transform_products(tag, width, point, width, p.bias + channel * SIZE, a, b)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Return True for tensors that `convolve` takes, unless it would not be faster."""
    outputs, inputs, *kernel = weight.shape
    is_whole = not (inputs % VECTOR or outputs % VECTOR)
    return is_whole and kernel == [3, 3, 3] and x.ndim == 5 and x.numel() >= FEWEST_VOXELS * inputs


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with padding 1 and stride 1. The result is channels last; it has no gradient."""
    x = to_channels_last(x.detach())
    outputs, inputs = weight.shape[:2]
    y = use_huge_pages(torch.empty(len(x), outputs, *x.shape[2:], memory_format=torch.channels_last_3d))
    points = transform_weight(weight.detach())
    summands = x.new_zeros(outputs) if bias is None else bias.detach().contiguous()
    nx, ny, nz = x.shape[2:]
    places = (x.data_ptr(), points.data_ptr(), summands.data_ptr(), y.data_ptr())
    problem = Problem(*places, nx, ny, nz, inputs, outputs)
    n_tiles = len(x) * ((nx + 1) // 2) * ((ny + 1) // 2) * ((nz + 1) // 2)
    ranges = split_tasks(-(-n_tiles // TILES))
    transformed = (POINTS * (TILES * channels + GAP) for channels in (inputs, outputs))
    lengths = (*transformed, POINTS * CHANNELS, max(inputs, outputs), outputs)

    def work(thread: int) -> None:
        own = np.zeros(sum(lengths) + CACHE_LINE // SIZE, np.float32)
        start = -(-own.ctypes.data // CACHE_LINE) * CACHE_LINE
        scratch = Scratch(*(start + SIZE * sum(lengths[:k]) for k in range(len(lengths))))
        first, last = ranges[thread]
        convolve_tiles(np.float32(0), problem, scratch, first * TILES, min(last * TILES, n_tiles))

    run_in_threads(work, len(ranges))
    return y


def transform_weight(weight: Tensor) -> Tensor:
    """Return the weights' points (points, inputs, outputs)."""
    along = torch.tensor(TRANSFORM)
    every = torch.kron(torch.kron(along, along), along)
    outputs, inputs = weight.shape[:2]
    return (every @ weight.permute(2, 3, 4, 1, 0).reshape(27, -1)).view(POINTS, inputs, outputs)
