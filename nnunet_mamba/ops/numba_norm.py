"""Instance norm of channels-last tensors on CPUs: one pass over memory for the moments, one for the result.

torch has no such kernel: it copies the tensor into its own layout, normalises it and copies it back.

Shapes: x, y (b, c, *grid), channels last in memory; as rows (b, v, c), v voxels; moments (b, parts, 2, c).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.huge_pages import use_huge_pages
from nnunet_mamba.ops.numba_tasks import compiled, run_in_threads, split_tasks

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of axes
RUN = 4096  # values that stay in the nearest cache
SMALLEST_PART = 1 << 15  # values that are worth a thread


def to_channels_last(x: Tensor) -> Tensor:
    """Return a tensor of 4 or 5 axes with its channels last in memory; itself if they are."""
    layout = LAYOUTS[x.ndim]
    # a single channel is copied by the first of them, gaps in memory by the second
    return x.to(memory_format=layout).contiguous(memory_format=layout)


def instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise every channel of every item of x, in float32. The result is channels last; it has no
    gradient."""
    x = to_channels_last(x.detach())
    y = use_huge_pages(torch.empty_like(x, memory_format=LAYOUTS[x.ndim]))
    source, target = _rows(x), _rows(y)
    n_items, n_voxels, n_channels = source.shape
    n_threads = max(1, min(torch.get_num_threads(), x.numel() // SMALLEST_PART))
    n_parts = -(-n_threads // n_items)
    edges = np.arange(n_parts + 1) * n_voxels // n_parts
    moments = np.zeros((n_items, n_parts, 2, n_channels))
    ranges = split_tasks(n_items * n_parts, n_threads)

    def add_up(thread: int) -> None:
        add_moments(source, edges, *ranges[thread], moments)

    def write(thread: int) -> None:
        write_normalised(source, edges, *ranges[thread], mean, scale, shift, target)

    run_in_threads(add_up, len(ranges))
    mean, scale = _mean_and_scale(moments, np.diff(edges), eps)
    if weight is not None:
        scale = scale * weight.detach().numpy()
    shift = np.zeros(n_channels, np.float32) if bias is None else bias.detach().numpy()
    run_in_threads(write, len(ranges))
    return y


def _rows(x: Tensor) -> Any:
    """Return a channels-last tensor as an array (b, v, c) of the same memory."""
    return x.movedim(1, -1).view(len(x), -1, x.shape[1]).numpy()


def _mean_and_scale(moments: Any, n_voxels: Any, eps: float) -> tuple[Any, Any]:
    """Join the moments of parts of n_voxels. Return mean and inverse deviation (b, c), float32."""
    total = n_voxels.sum()
    share = (n_voxels / total)[:, None]
    means, squares = moments[:, :, 0], moments[:, :, 1]
    with np.errstate(invalid="ignore"):  # infinite input
        mean = (share * means).sum(1)
        variance = squares.sum(1) / total + (share * (means - mean[:, None]) ** 2).sum(1)
    return mean.astype(np.float32), (1 / np.sqrt(variance + eps)).astype(np.float32)


@compiled
def add_moments(rows, edges, first, last, moments):
    """Compute each channel's mean and its sum of squared deviations from it in the parts first..last-1.

    Both are those of short runs, read twice while they are in the cache, joined in float64: exact even where
    the mean is large beside the deviation.
    """
    n_parts, n_channels = len(edges) - 1, rows.shape[2]
    run = max(4, RUN // n_channels)
    mean, squares = np.empty(n_channels, np.float32), np.empty(n_channels, np.float32)
    for task in range(first, last):
        item, part = task // n_parts, task % n_parts
        x, total = rows[item], moments[item, part]
        for start in range(edges[part], edges[part + 1], run):
            seen, n = start - edges[part], min(run, edges[part + 1] - start)
            sum_rows(x[start : start + n], mean)
            mean /= np.float32(n)
            sum_squares(x[start : start + n], mean, squares)
            for k in range(n_channels):
                step = mean[k] - total[0, k]
                total[0, k] += step * n / (seen + n)
                total[1, k] += squares[k] + step * step * seen * n / (seen + n)


@compiled
def sum_rows(x, total):
    """Sum rows, four at a time."""
    total[:] = 0
    n, n_channels = x.shape
    whole = n // 4 * 4
    for t in range(0, whole, 4):
        for k in range(n_channels):
            total[k] += (x[t, k] + x[t + 1, k]) + (x[t + 2, k] + x[t + 3, k])
    for t in range(whole, n):
        for k in range(n_channels):
            total[k] += x[t, k]


@compiled
def sum_squares(x, mean, total):
    """Sum the squared deviations of rows, four at a time."""
    total[:] = 0
    n, n_channels = x.shape
    whole = n // 4 * 4
    for t in range(0, whole, 4):
        for k in range(n_channels):
            a, b, c, d = (
                x[t, k] - mean[k],
                x[t + 1, k] - mean[k],
                x[t + 2, k] - mean[k],
                x[t + 3, k] - mean[k],
            )
            total[k] += (a * a + b * b) + (c * c + d * d)
    for t in range(whole, n):
        for k in range(n_channels):
            total[k] += (x[t, k] - mean[k]) ** 2


@compiled
def write_normalised(rows, edges, first, last, mean, scale, shift, target):
    """Write (x - mean) * scale + shift of the parts first..last-1."""
    n_parts = len(edges) - 1
    for task in range(first, last):
        item, part = task // n_parts, task % n_parts
        means, factors = mean[item], scale[item]
        for t in range(edges[part], edges[part + 1]):
            for k in range(rows.shape[2]):
                target[item, t, k] = (rows[item, t, k] - means[k]) * factors[k] + shift[k]
