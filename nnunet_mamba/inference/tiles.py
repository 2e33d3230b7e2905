"""Tiles of an image: their places, what they hold, and whether the image is finite."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.networks.finite import NonFiniteError, is_finite

Slicer = tuple[int | slice, ...]  # index of a tile in (C, x, y, z); in 2D one slice along x


def constant_values(tile: Tensor) -> tuple[float, ...] | None:
    """Return the value of every channel of a tile (C, *patch) if each holds one value only, else None."""
    corner = (slice(None), *(slice(1) for _ in tile.shape[1:]))
    first = tile[corner]
    return tuple(first.flatten().tolist()) if bool((tile == first).all()) else None


def check_image(case: str, image: Tensor) -> None:
    """Raise NonFiniteError for an image with NaN or infinity."""
    if not is_finite(image):
        n = int((~torch.isfinite(image)).sum())
        raise NonFiniteError(
            f"{case}: {n} of the {image.numel()} values of the preprocessed image are NaN or infinite, so "
            "the fault is the image's, not the network's. Look for such voxels in its files; normalisation "
            "spreads a single one over all."
        )


def voxel_range(tile: Slicer) -> str:
    """Return the voxels of a tile as an index: "[0:8, 4:12, 0:8]"."""
    along = [f"{at.start}:{at.stop}" if isinstance(at, slice) else str(at) for at in tile[1:]]
    return f"[{', '.join(along)}]"
