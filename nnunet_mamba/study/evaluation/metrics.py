"""Metrics of two masks on one grid: METRICS is the only table of them. A new metric is a row of it.

P prediction, R reference; TP, FP, FN, TN voxels. Where a mask is empty a formula may have no answer;
`EmptyPolicy` defines the value there. The default policy, "diagonal":

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
from typing import Any, Literal

from nnunet_mamba.study.evaluation.components import f1
from nnunet_mamba.study.evaluation.masks import ConfusionCounts, MaskPair
from nnunet_mamba.study.evaluation.surfaces import percentile_mm, share_within

NAN = float("nan")
Measure = Callable[[MaskPair], float]
Kind = Literal["overlap", "rate", "surface", "distance", "instances"]


def dice(c: ConfusionCounts) -> float:
    """Return 2 TP / (2 TP + FP + FN)."""
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def iou(c: ConfusionCounts) -> float:
    """Return TP / (TP + FP + FN)."""
    return ratio(c.tp, c.tp + c.fp + c.fn)


def precision(c: ConfusionCounts) -> float:
    """Return TP / (TP + FP)."""
    return ratio(c.tp, c.tp + c.fp)


def sensitivity(c: ConfusionCounts) -> float:
    """Return TP / (TP + FN), also called recall."""
    return ratio(c.tp, c.tp + c.fn)


def specificity(c: ConfusionCounts) -> float:
    """Return TN / (TN + FP)."""
    return ratio(c.tn, c.tn + c.fp)


def accuracy(c: ConfusionCounts) -> float:
    """Return (TP + TN) / all voxels."""
    return ratio(c.tp + c.tn, c.tp + c.fp + c.fn + c.tn)


def volume_error(c: ConfusionCounts) -> float:
    """Return | |P| - |R| | / |R|: absolute, so that too large and too small do not cancel in the mean."""
    return ratio(abs(c.fp - c.fn), c.in_reference)


def ratio(numerator: float, denominator: float) -> float:
    """Return numerator / denominator, NaN if the denominator is 0."""
    return numerator / denominator if denominator else NAN


def nsd(pair: MaskPair) -> float:
    """Return the surface Dice at the label's tolerance, weighted by area."""
    return share_within(pair.surfels, pair.tolerance_mm)


def assd(pair: MaskPair) -> float:
    """Return the mean of all distances of both surfaces, pooled."""
    return float(pair.voxels.pooled_mm.mean())


def masd(pair: MaskPair) -> float:
    """Return the mean of the two directed means."""
    return float(pair.voxels.to_reference_mm.mean() + pair.voxels.to_prediction_mm.mean()) / 2


def asd(pair: MaskPair) -> float:
    """Return the mean distance from the prediction's surface to the reference's (one direction only)."""
    return float(pair.voxels.to_reference_mm.mean())


def hd95(pair: MaskPair) -> float:
    """Return the larger of the two directed 95th percentiles."""
    return percentile_mm(pair.voxels, 95)


def hd100(pair: MaskPair) -> float:
    """Return the Hausdorff distance: the largest distance of all."""
    return percentile_mm(pair.voxels, 100)


@dataclass(frozen=True)
class Metric:
    """Number of one label of one case.

    title    as pages show it
    unit     "mm", or "" for numbers without one
    kind     overlap    from the confusion matrix; the empty policy says what it is for empty masks
             rate       from the confusion matrix, by its formula where only one mask is empty
             surface    share of the surfaces within the label's tolerance
             distance   between the surfaces, in the unit of the spacing
             instances  from connected components, or from instances that the reference numbers
    measure  takes the `ConfusionCounts` of the masks for overlap and rate, the `MaskPair` for the others
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    kind: Kind
    measure: Callable[[Any], float]

    def __call__(self, pair: MaskPair) -> float:
        return self.measure(pair.counts if self.uses_counts else pair)

    @property
    def uses_counts(self) -> bool:
        """Return True if the confusion matrix is enough, which can then be summed over cases."""
        return self.kind in ("overlap", "rate")

    @property
    def uses_surfaces(self) -> bool:
        """Return True if the value depends on the size of voxels."""
        return self.kind in ("surface", "distance")

    @property
    def uses_tolerance(self) -> bool:
        return self.kind == "surface"


ROWS = (
    Metric("dice", "Dice", "", True, "overlap", dice),
    Metric("iou", "IoU", "", True, "overlap", iou),
    Metric("nsd", "NSD", "", True, "surface", nsd),
    Metric("hd95", "HD95", "mm", False, "distance", hd95),
    Metric("hd100", "HD100", "mm", False, "distance", hd100),
    Metric("assd", "ASSD", "mm", False, "distance", assd),
    Metric("masd", "MASD", "mm", False, "distance", masd),
    Metric("asd", "ASD", "mm", False, "distance", asd),
    Metric("precision", "precision", "", True, "overlap", precision),
    Metric("sensitivity", "sensitivity", "", True, "rate", sensitivity),
    Metric("specificity", "specificity", "", True, "rate", specificity),
    Metric("accuracy", "accuracy", "", True, "rate", accuracy),
    Metric("volume_error", "volume error", "", False, "rate", volume_error),
    Metric("f1", "F1", "", True, "instances", f1),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in ROWS}

EmptyValue = tuple[float, float | None]  # of overlaps, of distances; None: the image's diagonal


@dataclass(frozen=True)
class EmptyPolicy:
    """Values of overlaps and distances where a mask is empty."""

    both: EmptyValue
    no_prediction: EmptyValue
    no_reference: EmptyValue

    def value(self, metric: str, measure: Measure, pair: MaskPair) -> float:
        """Return `measure` of the pair, or the policy's value for an empty mask."""
        if not pair.empty_side:
            return measure(pair)
        values = {"both": self.both, "prediction": self.no_prediction, "reference": self.no_reference}
        overlap, distance = values[pair.empty_side]
        kind = METRICS[metric].kind
        # a rate is defined by its formula unless the policy leaves out cases where both masks are empty
        if kind == "rate" and (pair.empty_side != "both" or not math.isnan(overlap)):
            return measure(pair)
        if kind == "distance":
            return pair.diagonal_mm if distance is None else distance
        return overlap


def symmetric_policy(both: EmptyValue, one: EmptyValue) -> EmptyPolicy:
    """Return the policy that treats a missing prediction and a missing reference alike."""
    return EmptyPolicy(both, one, one)


EMPTY_POLICIES: Mapping[str, EmptyPolicy] = {
    "diagonal": symmetric_policy((NAN, NAN), (0, None)),
    "nan": symmetric_policy((NAN, NAN), (0, NAN)),
    "inf": symmetric_policy((NAN, NAN), (0, math.inf)),
    "brats": symmetric_policy((1, 0), (0, 373.13)),
}
