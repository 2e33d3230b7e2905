"""Connected components of masks: F1 of instances (cells), and lesion-wise Dice and HD95.

F1. An instance is a connected component, corners included, unless the reference numbers its instances. They
are matched one to one where their IoU is at least 0.5. U-Mamba [1] leaves out those that touch the two
outermost pixels. Images of 25 million pixels or more are scored in tiles of 2000, which cut instances at
their borders.

Lesions, as BraTS 2023 scores them [2], with its constants for glioma. Reference components whose dilations
touch are one lesion. A predicted component belongs to every lesion whose dilation it meets, and is a false
positive if it meets none. Each lesion is scored against all components that belong to it; a lesion without
any, and each false positive, has Dice 0 and HD95 374 mm. Lesions of 50 mm^3 or less are then left out (false
positives are not, however small), and the rest is averaged. Without lesions and false positives: 1 and 0.

[1] Ma et al., U-Mamba, arXiv:2401.04722, after the NeurIPS 2022 cell segmentation challenge.
[2] Saluja et al., BraTS-2023-Metrics, github.com/rachitsaluja/BraTS-2023-Metrics
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix

from nnunet_mamba.study.evaluation.surfaces import surfel_surfaces, weighted_percentile_mm

if TYPE_CHECKING:
    from nnunet_mamba.study.evaluation.masks import MaskPair

BORDER = 2  # pixels, of U-Mamba
LEAST_IOU = 0.5
LARGE = 25_000_000  # pixels
TILE = 2000  # pixels along each axis
DILATIONS = 3
IGNORED_MM3 = 50.0
WORST_MM = 374.0


def f1(pair: MaskPair, border: int = 0) -> float:
    """Return 2 TP / (predicted + reference instances), without those within `border` of the image's edge."""
    predicted = label_components(pair.on_grid(pair.prediction))
    if pair.instances is None:
        return instance_f1(predicted, label_components(pair.on_grid(pair.reference)), border)
    return instance_f1(predicted, pair.on_grid(np.where(pair.reference, pair.instances, 0)), border)


def instance_f1(
    predicted: np.ndarray, true: np.ndarray, border: int = BORDER, large: int = LARGE, tile: int = TILE
) -> float:
    """Return the F1 of two maps that number their instances (0 elsewhere); NaN if neither has any off the
    border."""
    if true.size < large:
        counts = np.array(match_inner_instances(predicted, true, border))
    else:
        pads = [(0, -size % tile) for size in true.shape]
        p, t = (np.pad(instances, pads) for instances in (predicted, true))
        counts = np.sum(
            [match_inner_instances(p[at], t[at], border) for at in iterate_tiles(true.shape, tile)], axis=0
        )
    tp, n_predicted, n_true = (int(n) for n in counts)
    n = n_predicted + n_true
    return 2 * tp / n if n else float("nan")


def match_inner_instances(predicted: np.ndarray, true: np.ndarray, border: int) -> tuple[int, int, int]:
    """Return what `match_instances` does, of the instances that do not touch the border."""
    return match_instances(remove_border_instances(predicted, border), remove_border_instances(true, border))


def iterate_tiles(grid: tuple[int, ...], tile: int) -> Iterator[tuple[slice, ...]]:
    """Yield the slices of each tile of the grid."""
    steps = [[slice(start, start + tile) for start in range(0, size, tile)] for size in grid]
    return product(*steps)


def label_components(mask: np.ndarray) -> np.ndarray:
    """Return the number of each voxel's connected component (corners included), 0 outside the mask."""
    numbered, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return np.asarray(numbered)


def remove_border_instances(instances: np.ndarray, border: int = BORDER) -> np.ndarray:
    """Return the map without the instances that reach into the `border` outermost pixels."""
    if not border:
        return instances
    rim = np.ones(instances.shape, bool)
    rim[(slice(border, -border),) * instances.ndim] = False
    return np.where(np.isin(instances, np.unique(instances[rim])), 0, instances)


def match_instances(predicted: np.ndarray, true: np.ndarray) -> tuple[int, int, int]:
    """Return the numbers of matched pairs, of predicted and of true instances."""
    n_predicted, p = renumber(predicted)
    n_true, t = renumber(true)
    if not n_predicted or not n_true:
        return 0, n_predicted, n_true
    both = (p > 0) & (t > 0)
    ones = np.ones(np.count_nonzero(both), int)
    overlap = coo_matrix((ones, (t[both] - 1, p[both] - 1)), shape=(n_true, n_predicted)).toarray()
    sizes_t, sizes_p = np.bincount(t, minlength=n_true + 1)[1:], np.bincount(p, minlength=n_predicted + 1)[1:]
    iou = overlap / (sizes_t[:, None] + sizes_p - overlap)
    # as many matches as possible, and among these the largest overlaps
    gain = (iou >= LEAST_IOU) + iou / (2 * min(iou.shape))
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return int(np.count_nonzero(iou[rows, columns] >= LEAST_IOU)), n_predicted, n_true


def renumber(instances: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of instances, and each pixel's instance counted from 1 (flat), 0 outside."""
    numbers, inverse = np.unique(np.append(0, instances.ravel()), return_inverse=True)
    return len(numbers) - 1, inverse[1:]


def lesionwise_dice(pair: MaskPair) -> float:
    """Return the mean Dice over lesions and false positives."""
    lesions, n_false = match_lesions(pair)
    scores = [2 * np.count_nonzero(p & r) / (np.count_nonzero(p) + np.count_nonzero(r)) for p, r in lesions]
    n = len(scores) + n_false
    return float(sum(scores)) / n if n else 1.0


def lesionwise_hd95(pair: MaskPair) -> float:
    """Return the mean HD95 over lesions and false positives."""
    lesions, n_false = match_lesions(pair)
    scores = [
        weighted_percentile_mm(surfel_surfaces(p, r, pair.spacing_mm), 95) if p.any() else WORST_MM
        for p, r in lesions
    ]
    n = len(scores) + n_false
    return (sum(scores) + n_false * WORST_MM) / n if n else 0.0


def match_lesions(pair: MaskPair) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """Return the (prediction, reference) masks of each lesion that counts, and the number of false
    positives."""
    margin = [(DILATIONS, DILATIONS)] * pair.reference.ndim
    prediction, reference = np.pad(pair.prediction, margin), np.pad(pair.reference, margin)
    components = label_components(prediction)
    n_components = int(components.max(initial=0))
    voxel_mm3 = float(np.prod(pair.spacing_mm))
    counted, hit = [], {0}
    for lesion in iterate_lesions(reference):
        met = set(np.unique(components[dilate(lesion)]).tolist()) - {0}
        hit |= met
        if np.count_nonzero(lesion) * voxel_mm3 > IGNORED_MM3:
            counted.append((np.isin(components, list(met)), lesion))
    return counted, n_components + 1 - len(hit)


def iterate_lesions(reference: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the mask of each lesion: reference voxels within one component of the dilated reference."""
    merged = label_components(dilate(reference))
    for number in range(1, int(merged.max(initial=0)) + 1):
        yield reference & (merged == number)


def dilate(mask: np.ndarray) -> np.ndarray:
    """Return the mask grown by three steps to the neighbours across faces and edges."""
    structure = ndimage.generate_binary_structure(mask.ndim, 2)
    return np.asarray(ndimage.binary_dilation(mask, structure, iterations=DILATIONS))
