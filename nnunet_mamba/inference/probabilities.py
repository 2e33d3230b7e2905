"""Probabilities of resampled logits, one channel after the other."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from nnunet_mamba.inference import label_kernels
from nnunet_mamba.inference.labelling import (
    as_columns,
    as_kernel_input,
    interpolate,
    run_over_planes,
)
from nnunet_mamba.inference.resampling import Target

DEFLATE_LEVEL = 1  # probabilities hardly get smaller by more work


def iterate_probabilities(
    logits: Tensor, target: Target, labels: LabelManager, n_threads: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the probabilities of one channel after the other, in the image's own order of axes.

    Outside of the box that the network saw, background has probability 1. Three arrays of the image's size
    in float32 are held at a time, however many channels there are; without regions each logit is interpolated
    twice, for the sum of exponentials comes first.
    """
    stored = as_kernel_input(logits)
    maps = target.resampling.interpolations()
    columns = as_columns(maps)
    highest, total = np.zeros((2, *target.resampling.new_shape), np.float32)

    def sum_exponentials(first: int, last: int) -> None:
        planes = np.empty((len(stored), last - first, *highest.shape[1:]), np.float32)
        part = tuple(
            tuple(array[first:last] if axis == 0 else array for axis, array in enumerate(arrays))
            for arrays in columns
        )
        for channel, result in zip(stored, planes, strict=True):
            label_kernels.interpolate_planes(channel, *part, result, 0, last - first)
        planes.max(0, out=highest[first:last])
        planes -= highest[first:last]
        np.exp(planes, out=planes).sum(0, out=total[first:last])

    if not labels.has_regions:
        run_over_planes(sum_exponentials, len(total), n_threads, most=1)
    for k, channel in enumerate(stored):
        whole = np.full(target.shape, float(k == 0 and not labels.has_regions), np.float32)
        inside = whole[target.box]
        interpolate(channel, maps, inside, n_threads)
        if labels.has_regions:
            np.copyto(inside, torch.sigmoid(torch.from_numpy(inside)).numpy())
        else:
            inside -= highest
            np.exp(inside, out=inside)
            inside /= total
        yield whole.transpose(target.transpose)


def write_probabilities(file: Path, channels: Iterator[np.ndarray], n_channels: int) -> None:
    """Write channels into an .npz file as nnU-Net does: one array, "probabilities", of (K, *image)."""
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=DEFLATE_LEVEL) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as stream,
    ):
        for k, channel in enumerate(channels):
            if k == 0:
                described = {
                    "descr": np.lib.format.dtype_to_descr(channel.dtype),
                    "fortran_order": False,
                    "shape": (n_channels, *channel.shape),
                }
                np.lib.format.write_array_header_1_0(stream, described)
            for plane in channel:
                stream.write(np.ascontiguousarray(plane).data)
