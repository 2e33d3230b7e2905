"""Surface distances of two masks (*grid) in mm, computed by MONAI; no other module calls it for them.

Two definitions of a mask's surface are in use, and papers seldom say which:

    voxels    voxels that have a face neighbour outside; each counts once. For HD, ASSD, MASD and ASD
    surfels   the pieces that separate inside from outside, each weighted by its area in mm^2 (in 2D, by its
              length in mm), as in DeepMind's surface-distance. For NSD

Outside the image is outside the mask. Distances are computed once per pair and surface,
and reduced in float64.
"""

from dataclasses import dataclass

import numpy as np

SLAB = 1 << 21  # voxels whose surfels are computed at a time: MONAI needs some 100 bytes for each


@dataclass(frozen=True)
class Surfaces:
    """Distances from each element of one mask's surface to the nearest of the other's, and weights."""

    to_reference_mm: np.ndarray  # (n,) from the prediction's surface
    to_prediction_mm: np.ndarray  # (m,) from the reference's
    prediction_weights: np.ndarray  # (n,)
    reference_weights: np.ndarray  # (m,)

    @property
    def pooled_mm(self) -> np.ndarray:
        """Return the distances of both directions. Shape: (n + m,)"""
        return np.concatenate([self.to_reference_mm, self.to_prediction_mm])


def voxel_surfaces(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]) -> Surfaces:
    """Return distances between surface voxels of two non-empty masks (*grid); `spacing_mm` by axis."""
    from monai.metrics.utils import get_mask_edges  # imports torch

    p, r = get_mask_edges(prediction, reference, crop=False)
    return _measure_surfaces(p, r, spacing_mm, np.ones(np.count_nonzero(p)), np.ones(np.count_nonzero(r)))


def surfel_surfaces(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]) -> Surfaces:
    """Return distances between surface elements of two non-empty masks (*grid); `spacing_mm` by axis."""
    padded = [np.pad(mask, 1) for mask in (prediction, reference)]  # the image's border is a surface too
    thickness = max(1, SLAB // padded[0][0].size)
    slabs = [
        _find_surfels([mask[start : start + thickness + 1] for mask in padded], spacing_mm)
        for start in range(0, len(padded[0]) - 1, thickness)
    ]
    p, r, p_areas, r_areas = (np.concatenate(parts) for parts in zip(*slabs, strict=True))
    return _measure_surfaces(p, r, spacing_mm, p_areas[p].astype(float), r_areas[r].astype(float))


def _find_surfels(masks: list[np.ndarray], spacing_mm: tuple[float, ...]) -> list[np.ndarray]:
    """Return each mask's surface elements, located between 2 x 2 (x 2) voxels, and then their areas."""
    import torch
    from monai.metrics.utils import get_mask_edges

    tensors = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in masks]
    found = get_mask_edges(*tensors, crop=False, spacing=_floats(spacing_mm))
    return [np.asarray(part) for part in found]  # tensors since MONAI 1.5


def _measure_surfaces(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, ...],
    prediction_weights: np.ndarray,
    reference_weights: np.ndarray,
) -> Surfaces:
    from monai.metrics.utils import get_surface_distance

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(get_surface_distance(a, b, spacing=_floats(spacing_mm)), float)

    return Surfaces(
        distances(prediction, reference),
        distances(reference, prediction),
        prediction_weights,
        reference_weights,
    )


def _floats(spacing_mm: tuple[float, ...]) -> list[float]:
    return [float(mm) for mm in spacing_mm]  # MONAI does not accept integers


def percentile_mm(surfaces: Surfaces, percentile: float) -> float:
    """Return the larger of the two directed percentiles; 100 is the Hausdorff distance."""
    directed = (surfaces.to_reference_mm, surfaces.to_prediction_mm)
    return float(max(np.percentile(distances, percentile) for distances in directed))


def pooled_percentile_mm(surfaces: Surfaces, percentile: float) -> float:
    """Return the percentile of both directions pooled, as medpy does; few far voxels disappear in it."""
    return float(np.percentile(surfaces.pooled_mm, percentile))


def weighted_percentile_mm(surfaces: Surfaces, percentile: float) -> float:
    """Return DeepMind's robust Hausdorff distance: the larger of the two directed percentiles of area, not of
    elements."""
    return max(
        _weighted_percentile(surfaces.to_reference_mm, surfaces.prediction_weights, percentile),
        _weighted_percentile(surfaces.to_prediction_mm, surfaces.reference_weights, percentile),
    )


def _weighted_percentile(distances: np.ndarray, weights: np.ndarray, percentile: float) -> float:
    order = np.lexsort((weights, distances))
    share = np.cumsum(weights[order]) / np.sum(weights)
    place = min(int(np.searchsorted(share, percentile / 100)), distances.size - 1)
    return float(distances[order][place])


ROUNDING = 1e-6  # relative: headers hold spacings in float32


def share_within(surfaces: Surfaces, tolerance_mm: float) -> float:
    """Return the surface Dice: the share of both surfaces that lies within `tolerance_mm` of the other.

    A distance equal to the tolerance, up to rounding, is within it.
    """
    limit = tolerance_mm * (1 + ROUNDING)
    sides = (
        (surfaces.to_reference_mm, surfaces.prediction_weights),
        (surfaces.to_prediction_mm, surfaces.reference_weights),
    )
    within = sum(float(weights[distances <= limit].sum()) for distances, weights in sides)
    return within / sum(float(weights.sum()) for _, weights in sides)
