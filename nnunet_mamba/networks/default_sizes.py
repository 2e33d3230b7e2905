"""Sizes of a U-Net without plans: those of nnU-Net's default planner for a patch of isotropic voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MIN_EDGE_VOX = 4  # nnU-Net's smallest feature map: the planner pools no axis below it
BASE_FEATURES = 32  # of nnU-Net's first stage
MAX_FEATURES = {2: 512, 3: 320}  # of any stage, by axes
PATCH = (128, 128, 128)  # nnU-Net's for large isotropic volumes on a GPU of 8 GB


def default_sizes(patch: Sequence[int]) -> dict[str, Any]:
    """Return features_per_stage, strides, kernel_sizes and patch_size of `create_network` for a patch.

    Every axis is halved until it has fewer than 8 voxels, the last one alone fewer than 12, and the features
    are doubled. ValueError for patches of other than 2 or 3 axes, or that cannot be halved.
    """
    grid = [int(size) for size in patch]
    strides = [(1,) * len(grid)]
    while steps := _halving(grid):
        strides.append(steps)
        grid = [-(-size // step) for size, step in zip(grid, steps, strict=True)]
    if len(grid) not in MAX_FEATURES or len(strides) < 2:
        raise ValueError(
            f"patch_size is {list(patch)}; expected 2 or 3 axes that can be halved once, which takes "
            f"{2 * MIN_EDGE_VOX} voxels; or give features_per_stage, strides and kernel_sizes."
        )
    return {
        "features_per_stage": default_features(len(strides), len(grid)),
        "strides": strides,
        "kernel_sizes": [(3,) * len(grid)] * len(strides),
        "patch_size": tuple(int(size) for size in patch),
    }


def _halving(grid: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of the next stage, () if there is none."""
    long = [size >= 2 * MIN_EDGE_VOX for size in grid]
    if not any(long) or (sum(long) == 1 and max(grid) < 3 * MIN_EDGE_VOX):
        return ()
    return tuple(2 if is_long else 1 for is_long in long)


def default_features(n_stages: int, ndim: int) -> list[int]:
    """Return nnU-Net's channels per stage."""
    return [min(BASE_FEATURES * 2**stage, MAX_FEATURES[ndim]) for stage in range(n_stages)]
