"""Labels of resampled logits, by numba's kernels on the CPU and by torch in slabs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from nnunet_mamba.inference import label_kernels
from nnunet_mamba.inference.batches import is_out_of_memory
from nnunet_mamba.inference.resampling import Interpolation, Resampling
from nnunet_mamba.io.cpu import choose_n_threads

PLANES = 8  # of the output that a thread decides before it takes the next
DEVICE_BYTES = 2**30  # of the slabs of interpolated logits on a GPU, if as much is free


def label_type(labels: LabelManager) -> type[np.unsignedinteger[Any]]:
    """Return the type in which nnU-Net holds these labels."""
    return np.uint8 if len(labels.foreground_labels) < 255 else np.uint16


def decide(
    logits: Tensor,
    resampling: Resampling,
    labels: LabelManager,
    target: np.ndarray,
    n_threads: int | None = None,
) -> None:
    """Write the labels of resampled logits into `target`, (x', y', z')."""
    label_values = (
        np.arange(len(logits)) if not labels.has_regions else np.array([0, *labels.regions_class_order])
    )
    if logits.device.type == "cuda":
        try:
            decide_in_slabs(logits, resampling.interpolations(), labels.has_regions, label_values, target)
            return
        except RuntimeError as error:  # else on the CPU, which needs no slab
            if not is_out_of_memory(error):
                raise
    stored, label_values = as_kernel_input(logits), label_values.astype(target.dtype)
    columns = as_columns(resampling.interpolations())
    separate = -1 if resampling.separate_axis is None else resampling.separate_axis
    codes = np.empty(stored.shape[1:], np.uint16)
    decided = np.empty(target.shape, target.dtype)  # contiguous: numba compiles for each layout anew
    encode = label_kernels.code_regions if labels.has_regions else label_kernels.code_argmax

    def decide_planes(first: int, last: int) -> None:
        label_kernels.decide_labels(
            stored, codes, *columns, separate, label_values, labels.has_regions, decided, first, last
        )

    run_over_planes(lambda *part: encode(stored, codes, *part), len(codes), n_threads)
    run_over_planes(decide_planes, len(target), n_threads)
    target[...] = decided


def decide_in_slabs(
    logits: Tensor,
    maps: Sequence[Interpolation],
    are_regions: bool,
    label_values: np.ndarray,
    target: np.ndarray,
    slab_bytes: int | None = None,
) -> None:
    """Write the labels of resampled logits into `target`, computed by torch where the logits are.

    Interpolation is in float32, not float64, so logits may round to another neighbour where two labels tie.

    Args:
        slab_bytes: of memory for the planes that are interpolated at once; None: by what is free.
    """
    n_y, n_z = target.shape[1:]
    bytes_per_plane = 4 * 4 * len(logits) * max(n_y, logits.shape[2]) * max(n_z, logits.shape[3])
    if slab_bytes is None:
        slab_bytes = min(DEVICE_BYTES, torch.cuda.mem_get_info(logits.device)[0] // 2)
    step = max(1, slab_bytes // bytes_per_plane)
    for first in range(0, len(target), step):
        values = _interpolate_axis(logits, 1, maps[0], slice(first, first + step))
        for axis in (2, 3):
            values = _interpolate_axis(values, axis, maps[axis - 1], slice(None))
        values = values.to(logits.dtype)
        if are_regions:
            codes = torch.arange(1, len(logits) + 1, device=logits.device, dtype=torch.int32)
            winner = ((values.float() > label_kernels.REGION_LOGIT) * codes[:, None, None, None]).amax(0)
        else:
            winner = values.argmax(0).int()
        target[first : first + step] = label_values[winner.cpu().numpy()]


def _interpolate_axis(values: Tensor, axis: int, along: Interpolation, part: slice) -> Tensor:
    """Interpolate a part of the output along an axis of (K, x, y, z), in float32."""
    shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]
    low, high, weights = (
        torch.from_numpy(np.ascontiguousarray(array[part])).to(values.device)
        for array in (along.low, along.high, along.weights)
    )
    lower, upper = weights.float().unbind(1)
    result = values.index_select(axis, low).float().mul_(lower.view(shape))
    if upper.any():
        result.addcmul_(values.index_select(axis, high).float(), upper.view(shape))
    return result


def interpolate(
    channel: np.ndarray, maps: Sequence[Interpolation], target: np.ndarray, n_threads: int | None = None
) -> None:
    """Write a resampled channel, as the kernels read it, into `target`, (x', y', z') of float32."""
    columns = as_columns(maps)
    run_over_planes(
        lambda *part: label_kernels.interpolate_planes(channel, *columns, target, *part),
        len(target),
        n_threads,
    )


def as_kernel_input(logits: Tensor) -> np.ndarray:
    """Return logits as the kernels read them: float32, or float16 as its bits."""
    logits = logits.detach().cpu()
    if logits.dtype == torch.float16:
        return logits.numpy().view(np.uint16)
    return logits.float().numpy()


def as_columns(maps: Sequence[Interpolation]) -> tuple[tuple[np.ndarray, ...], ...]:
    """Return interpolations along x, y and z as the kernels take them: lows, highs, weights."""
    return (
        tuple(along.low for along in maps),
        tuple(along.high for along in maps),
        tuple(along.weights for along in maps),
    )


def run_over_planes(
    work: Callable[[int, int], object], n_planes: int, n_threads: int | None, most: int = PLANES
) -> None:
    """Call work(first, last) for successive planes, at most `most` at a time, in several threads."""
    parts = [(first, min(first + most, n_planes)) for first in range(0, n_planes, most)]
    with ThreadPoolExecutor(n_threads or choose_n_threads(steady=True)) as pool:
        for _ in pool.map(lambda part: work(*part), parts):
            pass
