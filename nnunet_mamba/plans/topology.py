"""nnU-Net's rules of patches and stages, without its planner.

A topology is what a patch and a spacing make of a U-Net: strides and kernel sizes per stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from nnunet_mamba.networks.default_sizes import MIN_EDGE_VOX

Grids = list[list[int]]


def topology(spacing: Sequence[float], patch: Sequence[int]) -> tuple[Grids, Grids, list[int]]:
    """Strides and kernel sizes per stage by nnU-Net's rule, and `patch` padded to a multiple of them."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernel_sizes, padded, _ = get_pool_and_conv_props(spacing, patch, MIN_EDGE_VOX, 999999)
    return [list(s) for s in strides], [list(k) for k in kernel_sizes], [int(size) for size in padded]


def fit_patch(spacing: Sequence[float], patch: Sequence[int], max_vox: int) -> list[int]:
    """The patch, its relatively longest axis shortened step by step until it has at most `max_vox` voxels.

    nnU-Net's planner shortens the same way, so the aspect of the patch is kept as far as pooling allows. No
    axis is cut below the size that can be halved once; if every axis is that short, the patch stays above the
    budget.
    """
    fitted = list(patch)
    while prod(fitted) > max_vox:
        shorter = shorten(spacing, fitted, patch)
        if shorter is None:
            break
        fitted = shorter
    return fitted


def shorten(spacing: Sequence[float], patch: list[int], original: Sequence[int]) -> list[int] | None:
    """`patch` with one axis one step shorter: the longest relative to `original` that has such a step."""
    by_length = sorted(range(len(patch)), key=lambda axis: (patch[axis] / original[axis], axis), reverse=True)
    for axis in by_length:
        for size in range(patch[axis] - 1, 2 * MIN_EDGE_VOX - 1, -1):
            shorter = [*patch[:axis], size, *patch[axis + 1 :]]
            if topology(spacing, shorter)[2] == shorter:  # divisible by its strides without padding
                return shorter
    return None
