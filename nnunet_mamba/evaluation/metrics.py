"""Metrics of two masks on one grid, with the empty cases as part of the definition.

              both empty           one empty
    Dice      NaN, not counted     0
    HD95      NaN, not counted     the image's diagonal in mm

HD95 is the larger of the two directed 95th percentiles of distances between surface voxels.
"""

import warnings

import numpy as np


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |P n R| / (|P| + |R|)"""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else float("nan")


def hd95_mm(
    prediction: np.ndarray, reference: np.ndarray, *, spacing_mm: tuple[float, ...], diagonal_mm: float
) -> float:
    """Hausdorff distance at the 95th percentile; `spacing_mm` in the array's axis order."""
    if not prediction.any() and not reference.any():
        return float("nan")
    if not prediction.any() or not reference.any():
        return diagonal_mm
    return surface_percentile_mm(prediction, reference, spacing_mm, percentile=95.0)


def surface_percentile_mm(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...], percentile: float
) -> float:
    """The one door to MONAI's surface distances: non-empty masks (*grid), spacing as floats in axis order."""
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    box = union_box(prediction, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it passes itself
        distance = compute_hausdorff_distance(
            torch.from_numpy(np.ascontiguousarray(prediction[box]))[None, None],  # one image, one channel
            torch.from_numpy(np.ascontiguousarray(reference[box]))[None, None],
            include_background=True,
            percentile=percentile,
            spacing=[float(mm) for mm in spacing_mm],
        )
    return float(distance)


def union_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around both masks, one voxel wider where the grid allows."""
    either = a | b
    box = []
    for axis in range(either.ndim):
        others = tuple(other for other in range(either.ndim) if other != axis)
        inside = np.flatnonzero(either.any(others))
        box.append(slice(max(inside[0] - 1, 0), inside[-1] + 2))
    return tuple(box)
