"""F1 of instances (cells).

An instance is a connected component, corners included, unless the reference numbers its own. They are matched
one to one where their IoU is at least 0.5. U-Mamba [1] leaves out those that touch the two outermost pixels.
Images of 25 million pixels or more are scored in tiles of 2000, which cut instances at their borders.

[1] Ma et al., U-Mamba, arXiv:2401.04722, after the NeurIPS 2022 cell segmentation challenge.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix

if TYPE_CHECKING:
    from nnunet_mamba.study.evaluation.pairs import Pair

BORDER = 2  # pixels, of U-Mamba
LEAST_IOU = 0.5
LARGE = 25_000_000  # pixels
TILE = 2000  # pixels along each axis


def f1(pair: Pair, border: int = 0) -> float:
    """2 TP / (instances of the prediction + of the reference), without those within `border` of the edge."""
    predicted = components(pair.whole(pair.prediction))
    if pair.instances is None:
        return instance_f1(predicted, components(pair.whole(pair.reference)), border)
    return instance_f1(predicted, pair.whole(np.where(pair.reference, pair.instances, 0)), border)


def instance_f1(
    predicted: np.ndarray, true: np.ndarray, border: int = BORDER, large: int = LARGE, tile: int = TILE
) -> float:
    """Of two maps that number their instances, 0 elsewhere. NaN if neither has any off the border."""
    if true.size < large:
        counts = np.array(scored(predicted, true, border))
    else:
        pads = [(0, -size % tile) for size in true.shape]
        p, t = (np.pad(instances, pads) for instances in (predicted, true))
        counts = np.sum([scored(p[at], t[at], border) for at in tiles(true.shape, tile)], axis=0)
    tp, n_predicted, n_true = (int(n) for n in counts)
    n = n_predicted + n_true
    return 2 * tp / n if n else float("nan")


def scored(predicted: np.ndarray, true: np.ndarray, border: int) -> tuple[int, int, int]:
    """Matched pairs, instances predicted, instances there are; none of them at the border."""
    return matches(without_border(predicted, border), without_border(true, border))


def tiles(grid: tuple[int, ...], tile: int) -> Iterator[tuple[slice, ...]]:
    steps = [[slice(start, start + tile) for start in range(0, size, tile)] for size in grid]
    return product(*steps)


def components(mask: np.ndarray) -> np.ndarray:
    numbered, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return np.asarray(numbered)


def without_border(instances: np.ndarray, border: int = BORDER) -> np.ndarray:
    """The map without those instances that reach into the `border` outermost pixels."""
    if not border:
        return instances
    rim = np.ones(instances.shape, bool)
    rim[(slice(border, -border),) * instances.ndim] = False
    return np.where(np.isin(instances, np.unique(instances[rim])), 0, instances)


def matches(predicted: np.ndarray, true: np.ndarray) -> tuple[int, int, int]:
    """Matched pairs, instances predicted, instances there are."""
    n_predicted, p = renumbered(predicted)
    n_true, t = renumbered(true)
    if not n_predicted or not n_true:
        return 0, n_predicted, n_true
    both = (p > 0) & (t > 0)
    ones = np.ones(np.count_nonzero(both), int)
    overlap = coo_matrix((ones, (t[both] - 1, p[both] - 1)), shape=(n_true, n_predicted)).toarray()
    sizes_t, sizes_p = np.bincount(t, minlength=n_true + 1)[1:], np.bincount(p, minlength=n_predicted + 1)[1:]
    iou = overlap / (sizes_t[:, None] + sizes_p - overlap)
    # as many matches as can be, and among these the largest overlaps
    gain = (iou >= LEAST_IOU) + iou / (2 * min(iou.shape))
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return int(np.count_nonzero(iou[rows, columns] >= LEAST_IOU)), n_predicted, n_true


def renumbered(instances: np.ndarray) -> tuple[int, np.ndarray]:
    """How many there are, and each pixel's number among them (flat), 0 outside."""
    numbers, inverse = np.unique(np.append(0, instances.ravel()), return_inverse=True)
    return len(numbers) - 1, inverse[1:]
