"""nnU-Net's resampling as one linear map per axis.

`resample_data_or_seg_to_shape` is separable: skimage's `resize` along every axis, or along two of them and
scipy's `map_coordinates` along the third, the one of low resolution. For splines each axis is a matrix here,
made by these functions from unit vectors, so that borders and filters are theirs; for orders 0 and 1 it is an
`Interpolation`, whose weights are scipy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from scipy.ndimage import map_coordinates
from skimage.transform import resize
from torch import Tensor

NEGLIGIBLE = 1e-9  # of a matrix's entries, which float32 holds to 6e-8 of the largest
BLOCK = 64  # rows of a matrix that are multiplied at once
SLAB = 2**24  # voxels of an image that are resampled at once


@dataclass(frozen=True)
class Interpolation:
    """Linear interpolation along an axis: output i is weights[i, 0] of input low[i] and weights[i, 1] of
    high[i].

    Shapes: (n_out,) of int64, and (n_out, 2) of float64.
    """

    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray

    @classmethod
    def of_sizes(cls, n_in: int, n_out: int, order: int) -> Interpolation:
        """Return scipy's interpolation of order 0 or 1: beyond the centre of an outer voxel both neighbours
        are that voxel."""
        at = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
        if order == 0:
            at = np.floor(at + 0.5)
        below = np.floor(at)
        share = at - below
        low = below.astype(np.int64)
        high = low + (share > 0)
        return cls(low.clip(0, n_in - 1), high.clip(0, n_in - 1), np.stack([1 - share, share], 1))


@dataclass(frozen=True)
class Resampling:
    """Resampling of an array (channels, x, y, z) from one shape to another.

    `separate_axis` is resampled after the other two, by its own order; None: all three alike.
    """

    old_shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    order: int
    order_z: int
    separate_axis: int | None

    @classmethod
    def from_plans(
        cls,
        options: dict[str, Any],
        old_shape: Sequence[int],
        new_shape: Sequence[int],
        old_spacing: Sequence[float],
        new_spacing: Sequence[float],
    ) -> Resampling:
        """Return the resampling that nnU-Net makes with the keyword arguments `options` of the plans."""
        thresholds = {k: v for k, v in options.items() if k == "separate_z_anisotropy_threshold"}
        separate, axis = determine_do_sep_z_and_axis(
            options.get("force_separate_z", False), old_spacing, new_spacing, **thresholds
        )
        return cls(
            tuple(int(n) for n in old_shape),
            tuple(int(n) for n in new_shape),
            int(options.get("order", 3)),
            int(options.get("order_z", 0)),
            int(axis) if separate else None,
        )

    def matrix(self, axis: int) -> np.ndarray:
        """Return the map along an axis: (n_out, n_in) in float64."""
        n_in, n_out = self.old_shape[axis], self.new_shape[axis]
        if self.old_shape == self.new_shape or (axis == self.separate_axis and n_in == n_out):
            return np.eye(n_in)
        units = np.eye(n_in)
        if axis == self.separate_axis:
            at = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
            return np.stack(
                [map_coordinates(unit, at[None], order=self.order_z, mode="nearest") for unit in units], 1
            )
        return resize(units, (n_out, n_in), self.order, mode="edge", anti_aliasing=False, clip=False)

    def interpolations(self) -> tuple[Interpolation, Interpolation, Interpolation]:
        """Return the map along each axis for orders 0 and 1."""
        orders = [self.order_z if axis == self.separate_axis else self.order for axis in range(3)]
        sizes = zip(self.old_shape, self.new_shape, orders, strict=True)
        return tuple(Interpolation.of_sizes(*along) for along in sizes)  # type: ignore[return-value]


@dataclass(frozen=True)
class Target:
    """Grid on which labels are wanted, and how the network's grid maps to it.

    shape       of the image in the network's order of axes
    box         part of it that the network saw
    transpose   axes that bring an array back into the image's own order
    """

    resampling: Resampling
    shape: tuple[int, ...]
    box: tuple[slice, ...]
    transpose: tuple[int, ...]

    @classmethod
    def of_image(
        cls, plans: Any, configuration: Any, properties: dict, logits_shape: Sequence[int]
    ) -> Target:
        """Return the target of logits (K, x, y, z) of an image with these `properties` of preprocessing."""
        inside = properties["shape_after_cropping_and_before_resampling"]
        spacing, of_network = get_spacings(plans, configuration, properties)
        options = configuration.resampling_fn_probabilities.keywords
        return cls(
            Resampling.from_plans(options, logits_shape[1:], inside, of_network, spacing),
            tuple(int(n) for n in properties["shape_before_cropping"]),
            tuple(slice(int(first), int(last)) for first, last in properties["bbox_used_for_cropping"]),
            tuple(plans.transpose_backward),
        )


def get_spacings(plans: Any, configuration: Any, properties: dict) -> tuple[list[float], list[float]]:
    """Return the spacing of an image and of what the network sees of it, both in the network's order of axes.

    A 2D network has slices as they are.
    """
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    return spacing, [*spacing[: len(spacing) - len(configuration.spacing)], *configuration.spacing]


def resample_image(image: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Resample an image by splines of any order as nnU-Net does. Shape: (C, x, y, z) -> (C, *new_shape)

    In float32, so up to its rounding. As skimage does, values are clipped to the range of what was resampled:
    the channel, or each slice before its separate axis.
    """
    if resampling.old_shape == resampling.new_shape:
        return image
    last = resampling.separate_axis or 0
    first, second = (axis for axis in range(3) if axis != last)
    matrices = [_Banded(resampling.matrix(axis)) for axis in (last, first, second)]
    result = np.empty((len(image), *resampling.new_shape), np.float32)
    for channel, target in zip(torch.from_numpy(image), torch.from_numpy(result), strict=True):
        values = channel.float().movedim(last, 0)
        is_separate = resampling.separate_axis is not None
        planes = _resample_planes(values, *matrices[1:], clip=is_separate)
        matrices[0].multiply(planes, 0, target.movedim(last, 0))
        if not is_separate:
            target.clamp_(*values.aminmax())
    return result


def _resample_planes(values: Tensor, first: _Banded, second: _Banded, *, clip: bool) -> Tensor:
    """Resample the last two axes, some planes at once. Shape: (n, y, z) -> (n, y', z')"""
    planes = values.new_empty(len(values), first.n_out, second.n_out)
    step = max(1, SLAB // max(1, values[0].numel()))
    for source, target in zip(values.split(step), planes.split(step), strict=True):
        between = source.new_empty(len(source), first.n_out, source.shape[2])
        first.multiply(source, 1, between)
        second.multiply(between, 2, target)
        if clip:
            lowest, highest = source.flatten(1).aminmax(dim=1)
            target.clamp_(lowest[:, None, None], highest[:, None, None])
    return planes


class _Banded:
    """Matrix whose entries lie along its diagonal: splines of order 3 reach 16 voxels within float32.

    Args:
        matrix: (n_out, n_in) in float64.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self.n_out = len(matrix)
        self._blocks = []
        for rows in np.array_split(matrix, max(1, -(-len(matrix) // BLOCK))):
            used = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(0))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            self._blocks.append((columns, torch.from_numpy(rows[:, columns]).float()))

    def multiply(self, values: Tensor, axis: int, target: Tensor) -> None:
        """Write the product with (x, y, z) along an axis into `target`."""
        start = 0
        for columns, block in self._blocks:
            source = values.narrow(axis, columns.start, columns.stop - columns.start)
            if axis == 0:
                product = (block @ source.flatten(1)).unflatten(1, values.shape[1:])
            else:
                product = block @ source if axis == 1 else source @ block.T
            target.narrow(axis, start, len(block)).copy_(product)
            start += len(block)
