"""nnU-Net's rules for patches and stages, without its planner.

A topology is the strides and kernel sizes per stage that follow from a patch and a spacing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from nnunet_mamba.networks.default_sizes import MIN_EDGE_VOX

Grids = list[list[int]]


def plan_topology(spacing: Sequence[float], patch: Sequence[int]) -> tuple[Grids, Grids, list[int]]:
    """Return strides and kernel sizes per stage by nnU-Net's rule, and `patch` padded to a multiple of the
    strides."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernel_sizes, padded, _ = get_pool_and_conv_props(spacing, patch, MIN_EDGE_VOX, 999999)
    return [list(s) for s in strides], [list(k) for k in kernel_sizes], [int(size) for size in padded]


def fit_patch(spacing: Sequence[float], patch: Sequence[int], max_vox: int) -> list[int]:
    """Shorten the relatively longest axis of a patch step by step until it has at most `max_vox` voxels.

    nnU-Net's planner does the same, so the aspect of the patch is kept as far as pooling allows. No axis
    becomes shorter than the size that can be halved once; if all are that short, the patch stays larger than
    `max_vox`.
    """
    fitted = list(patch)
    while prod(fitted) > max_vox:
        shorter = shorten_patch(spacing, fitted, patch)
        if shorter is None:
            break
        fitted = shorter
    return fitted


def shorten_patch(spacing: Sequence[float], patch: list[int], original: Sequence[int]) -> list[int] | None:
    """Return `patch` with one axis a step shorter, the longest relative to `original` that can be shortened;
    None if there is none."""
    by_length = sorted(range(len(patch)), key=lambda axis: (patch[axis] / original[axis], axis), reverse=True)
    for axis in by_length:
        for size in range(patch[axis] - 1, 2 * MIN_EDGE_VOX - 1, -1):
            shorter = [*patch[:axis], size, *patch[axis + 1 :]]
            if plan_topology(spacing, shorter)[2] == shorter:  # divisible by its strides without padding
                return shorter
    return None
