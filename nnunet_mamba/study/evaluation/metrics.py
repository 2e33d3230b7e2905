"""Metrics of two masks on one grid. P prediction, R reference; TP, FP, FN, TN voxels.

Where a mask is empty a formula may have no answer; `EmptyPolicy` is the definition there. Ours:

                                     both empty           no prediction   no reference
    dice iou nsd precision f1        NaN, not counted     0               0
    hd95 hd100 assd masd asd         NaN, not counted     the image's diagonal in mm
    sensitivity                      NaN, not counted     0               NaN, not counted
    volume_error                     NaN, not counted     1               NaN, not counted
    specificity accuracy             NaN, not counted     their formulas
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nnunet_mamba.study.evaluation.instances import f1
from nnunet_mamba.study.evaluation.pairs import Counts, Pair
from nnunet_mamba.study.evaluation.surfaces import percentile_mm, share_within

NAN = float("nan")
Measure = Callable[[Pair], float]


def dice(c: Counts) -> float:
    """2 TP / (2 TP + FP + FN)"""
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def iou(c: Counts) -> float:
    """TP / (TP + FP + FN)"""
    return ratio(c.tp, c.tp + c.fp + c.fn)


def precision(c: Counts) -> float:
    """TP / (TP + FP)"""
    return ratio(c.tp, c.tp + c.fp)


def sensitivity(c: Counts) -> float:
    """TP / (TP + FN), which others call recall"""
    return ratio(c.tp, c.tp + c.fn)


def specificity(c: Counts) -> float:
    """TN / (TN + FP)"""
    return ratio(c.tn, c.tn + c.fp)


def accuracy(c: Counts) -> float:
    """(TP + TN) / all voxels"""
    return ratio(c.tp + c.tn, c.tp + c.fp + c.fn + c.tn)


def volume_error(c: Counts) -> float:
    """| |P| - |R| | / |R|: absolute, so that too large and too small do not cancel in the mean"""
    return ratio(abs(c.fp - c.fn), c.in_reference)


def ratio(part: float, of: float) -> float:
    return part / of if of else NAN


def nsd(pair: Pair) -> float:
    """Surface Dice at the label's tolerance, weighted by area."""
    return share_within(pair.surfels, pair.tolerance_mm)


def assd(pair: Pair) -> float:
    """The mean of all distances, from both surfaces thrown together."""
    return float(pair.voxels.pooled_mm.mean())


def masd(pair: Pair) -> float:
    """The mean of the two directed means."""
    return float(pair.voxels.to_reference_mm.mean() + pair.voxels.to_prediction_mm.mean()) / 2


def asd(pair: Pair) -> float:
    """The mean distance from the prediction's surface to the reference's, and not back."""
    return float(pair.voxels.to_reference_mm.mean())


def hd95(pair: Pair) -> float:
    """The larger of the two directed 95th percentiles."""
    return percentile_mm(pair.voxels, 95)


def hd100(pair: Pair) -> float:
    """The Hausdorff distance: the largest distance of all."""
    return percentile_mm(pair.voxels, 100)


def counted(measure: Callable[[Counts], float]) -> Measure:
    return lambda pair: measure(pair.counts)


OF_COUNTS: Mapping[str, Callable[[Counts], float]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "accuracy": accuracy,
    "volume_error": volume_error,
}
MEASURES: Mapping[str, Measure] = {
    **{name: counted(measure) for name, measure in OF_COUNTS.items()},
    "nsd": nsd,
    "hd95": hd95,
    "hd100": hd100,
    "assd": assd,
    "masd": masd,
    "asd": asd,
    "f1": f1,
}
METRICS = (
    "dice", "iou", "nsd", "hd95", "hd100", "assd", "masd", "asd", "precision", "sensitivity", "specificity",
    "accuracy", "volume_error", "f1",
)  # fmt: skip
DISTANCES = ("hd95", "hd100", "assd", "masd", "asd")
SURFACE_METRICS = ("nsd", *DISTANCES)
BY_FORMULA = ("sensitivity", "specificity", "accuracy", "volume_error")  # if only one mask is empty
assert set(METRICS) == set(MEASURES)

DIAGONAL = -1.0  # stands for the image's diagonal


@dataclass(frozen=True)
class EmptyPolicy:
    """What overlaps and distances are where a mask is empty: (overlap, distance)."""

    both: tuple[float, float]
    no_prediction: tuple[float, float]
    no_reference: tuple[float, float]

    def value(self, metric: str, measure: Measure, pair: Pair) -> float:
        """`measure` of the pair, or what stands for it."""
        overlap, distance = {
            "both": self.both,
            "prediction": self.no_prediction,
            "reference": self.no_reference,
        }.get(pair.empty, (NAN, NAN))
        if not pair.empty or (metric in BY_FORMULA and (pair.empty != "both" or not math.isnan(overlap))):
            return measure(pair)
        if metric in DISTANCES:
            return pair.diagonal_mm if distance == DIAGONAL else distance
        return overlap


def same(both: tuple[float, float], one: tuple[float, float]) -> EmptyPolicy:
    return EmptyPolicy(both, one, one)


EMPTY_POLICIES: Mapping[str, EmptyPolicy] = {
    "diagonal": same((NAN, NAN), (0, DIAGONAL)),
    "nan": same((NAN, NAN), (0, NAN)),
    "inf": same((NAN, NAN), (0, math.inf)),
    "brats": same((1, 0), (0, 373.13)),
}
