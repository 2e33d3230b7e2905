"""Lesion-wise Dice and HD95 as BraTS 2023 scores them [1], with its constants for glioma.

Reference components whose dilations touch are one lesion. A predicted component belongs to every lesion whose
dilation it meets, and is a false positive if it meets none. Each lesion is scored against all components that
belong to it; one that has none, and each false positive, has Dice 0 and HD95 374 mm. Lesions of 50 mm^3 or
less are then left out (false positives are not, however small), the rest is averaged. Nothing left: 1 and 0.

[1] Saluja et al., BraTS-2023-Metrics, github.com/rachitsaluja/BraTS-2023-Metrics
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from nnunet_mamba.study.evaluation.surfaces import surfel_surfaces, weighted_percentile_mm

if TYPE_CHECKING:
    from nnunet_mamba.study.evaluation.pairs import Pair

DILATIONS = 3
IGNORED_MM3 = 50.0
WORST_MM = 374.0


def lesionwise_dice(pair: Pair) -> float:
    lesions, n_false = lesions_of(pair)
    scores = [2 * np.count_nonzero(p & r) / (np.count_nonzero(p) + np.count_nonzero(r)) for p, r in lesions]
    n = len(scores) + n_false
    return float(sum(scores)) / n if n else 1.0


def lesionwise_hd95(pair: Pair) -> float:
    lesions, n_false = lesions_of(pair)
    scores = [
        weighted_percentile_mm(surfel_surfaces(p, r, pair.spacing_mm), 95) if p.any() else WORST_MM
        for p, r in lesions
    ]
    n = len(scores) + n_false
    return (sum(scores) + n_false * WORST_MM) / n if n else 0.0


def lesions_of(pair: Pair) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """(prediction, reference) masks of each lesion that counts, and the number of false positives."""
    margin = [(DILATIONS, DILATIONS)] * pair.reference.ndim
    prediction, reference = np.pad(pair.prediction, margin), np.pad(pair.reference, margin)
    components, n_components = ndimage.label(prediction, np.ones((3,) * prediction.ndim))
    voxel_mm3 = float(np.prod(pair.spacing_mm))
    counted, hit = [], {0}
    for lesion in combined_lesions(reference):
        met = set(np.unique(components[dilated(lesion)]).tolist()) - {0}
        hit |= met
        if np.count_nonzero(lesion) * voxel_mm3 > IGNORED_MM3:
            counted.append((np.isin(components, list(met)), lesion))
    return counted, n_components + 1 - len(hit)


def combined_lesions(reference: np.ndarray) -> Iterator[np.ndarray]:
    """The mask of each lesion: reference voxels within one component of the dilated reference."""
    merged, n = ndimage.label(dilated(reference), np.ones((3,) * reference.ndim))
    for number in range(1, n + 1):
        yield reference & (merged == number)


def dilated(mask: np.ndarray) -> np.ndarray:
    """Three steps to the neighbours across faces and edges."""
    structure = ndimage.generate_binary_structure(mask.ndim, 2)
    return np.asarray(ndimage.binary_dilation(mask, structure, iterations=DILATIONS))
