"""Evaluation protocols, a row each. `honest` is ours, the others compute what a paper's code computes.

Numbers of two protocols must not be compared; the table of scores names the protocol in every row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.study.evaluation.components import BORDER, f1, lesionwise_dice, lesionwise_hd95
from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.masks import MaskPair
from nnunet_mamba.study.evaluation.metrics import (
    EMPTY_POLICIES,
    METRICS,
    NAN,
    EmptyPolicy,
    Measure,
    symmetric_policy,
)
from nnunet_mamba.study.evaluation.surfaces import pooled_percentile_mm

DEFAULT_TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class Protocol:
    """Rules that turn a label's masks into numbers.

    difference    from `honest`, in a sentence
    shown         metrics computed by default
    measures      every metric that it defines, for masks of which none is empty
    empty         values for empty masks; None: the measures handle them themselves
    prepare       applied to the masks first
    tolerance_mm  of a label for NSD; None for labels without one
    digits        to which each case is rounded before the mean
    pooled        one confusion matrix over all cases instead of one per case
    in_mm         metrics that depend on the size of voxels; None: those of surfaces
    """

    name: str
    difference: str
    shown: tuple[str, ...]
    measures: Mapping[str, Measure]
    empty: EmptyPolicy | None = None
    prepare: Callable[[Label, MaskPair], MaskPair] = field(default=lambda label, pair: pair)
    tolerance_mm: Callable[[Label], float | None] = field(default=lambda label: DEFAULT_TOLERANCE_MM)
    digits: int | None = None
    pooled: bool = False
    in_mm: Collection[str] | None = None

    def value(self, metric: str, pair: MaskPair) -> float:
        """Return `metric` of a prepared pair."""
        measure = self.measures[metric]
        value = measure(pair) if self.empty is None else self.empty.value(metric, measure, pair)
        return value if self.digits is None or math.isnan(value) else round(value, self.digits)

    def needs_spacing(self, metric: str) -> bool:
        """Return True if `metric` depends on the size of voxels."""
        return METRICS[metric].uses_surfaces if self.in_mm is None else metric in self.in_mm


def check_metrics(protocol: Protocol, metrics: Sequence[str]) -> None:
    """Raise ValueError for a metric that the protocol does not define."""
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(format_unknown_name("metric", metric, METRICS))
        if metric not in protocol.measures:
            raise ValueError(
                f"The protocol {protocol.name} does not define {metric}, only {', '.join(protocol.measures)}."
            )


def in_voxels(label: Label, pair: MaskPair) -> MaskPair:
    """Return the pair with distances in voxels, as `Protocol.prepare`."""
    return pair.in_voxels()


def medpy_hd95(pair: MaskPair) -> float:
    """Return the 95th percentile of the distances of both directions, pooled."""
    return pooled_percentile_mm(pair.voxels, 95)


FLARE = {  # label of FLARE 2022: its names, tolerance in mm
    1: ({"liver"}, 5.0),
    2: ({"rightkidney", "rk"}, 3.0),
    3: ({"spleen"}, 3.0),
    4: ({"pancreas"}, 5.0),
    5: ({"aorta"}, 2.0),
    6: ({"inferiorvenacava", "ivc", "postcava"}, 2.0),
    7: ({"rightadrenalgland", "rag"}, 2.0),
    8: ({"leftadrenalgland", "lag"}, 2.0),
    9: ({"gallbladder"}, 2.0),
    10: ({"esophagus", "oesophagus"}, 3.0),
    11: ({"stomach"}, 5.0),
    12: ({"duodenum"}, 7.0),
    13: ({"leftkidney", "lk"}, 3.0),
}
TUBES = (5, 6, 10)  # aorta, inferior vena cava, esophagus: scored in the reference's slices only


def flare_organ(label: Label) -> int | None:
    """Return the organ's number in FLARE 2022 by the label's name, in any spelling, or by the value of a
    label without a name; None for other labels."""
    name = "".join(letter for letter in label.name.lower() if letter.isalpha())
    for number, (names, _) in FLARE.items():
        if name in names or (not name and label.values == (number,)):
            return number
    return None


def flare_tolerance(label: Label) -> float | None:
    """Return the tolerance of FLARE 2022 in mm; None for labels that are no organ of it."""
    organ = flare_organ(label)
    return None if organ is None else FLARE[organ][1]


def flare_slices(label: Label, pair: MaskPair) -> MaskPair:
    """Return long organs cut to the slices from the reference's lowest to its highest; the published
    code leaves the highest out."""
    if flare_organ(label) not in TUBES or not pair.counts.in_reference or pair.reference.ndim < 3:
        return pair
    slices = np.flatnonzero(pair.reference.any((1, 2)))
    return pair.cut(0, int(slices[0]), int(slices[-1]))


def flare_measure(metric: str) -> Measure:
    """Return the metric's measure: 1 for an organ absent from both masks, NaN if the cut left no slice."""
    empty = symmetric_policy(both=(1, NAN), one=(0, NAN))
    return lambda pair: empty.value(metric, METRICS[metric], pair) if pair.reference.size else NAN


def cell_f1(pair: MaskPair) -> float:
    """Return F1 without cells at the border, 0 if there are no others."""
    value = f1(pair, BORDER)
    return 0.0 if math.isnan(value) else value


NNFORMER = Protocol(
    "nnformer",
    "HD95 is the percentile of the pooled distances in voxels and 0 where a mask is empty; Dice is 1 "
    "where both are.",
    ("dice", "hd95"),
    {"dice": METRICS["dice"], "hd95": medpy_hd95},
    symmetric_policy(both=(1, 0), one=(0, 0)),
    in_voxels,
    in_mm=(),
)

ROWS = (
    Protocol(
        "honest",
        "Distances in mm, HD95 as the larger directed percentile, a missed organ scores the worst, an organ "
        "absent from both masks is left out and counted.",
        ("dice", "nsd", "hd95"),
        METRICS,
        EMPTY_POLICIES["diagonal"],
    ),
    Protocol(
        "transunet",
        "HD95 is the percentile of the pooled distances in voxels; a false positive scores Dice 1 and HD95 "
        "0, a missed organ Dice 0 and HD95 0, an organ absent from both Dice 0 and HD95 0.",
        ("dice", "hd95"),
        {"dice": METRICS["dice"], "hd95": medpy_hd95},
        EmptyPolicy(both=(0, 0), no_prediction=(0, 0), no_reference=(1, 0)),
        in_voxels,
        in_mm=(),
    ),
    NNFORMER,
    replace(
        NNFORMER,
        name="taming-mambas",
        difference="As nnformer; its Synapse table is in percent, these numbers are not.",
    ),
    Protocol(
        "umamba",
        "Organs absent from both masks score 1; aorta, inferior vena cava and esophagus count only from the "
        "reference's lowest slice to its highest, which is left out; tolerances are those of FLARE 2022; "
        "cases are rounded to 4 digits.",
        ("dice", "nsd"),
        {"dice": flare_measure("dice"), "nsd": flare_measure("nsd"), "f1": cell_f1},
        None,
        flare_slices,
        flare_tolerance,
        digits=4,
    ),
    Protocol(
        "vmunet-isic",
        "One confusion matrix over the pixels of all images, so that a large lesion counts more than a small "
        "one; the paper's mIoU is the lesion's IoU.",
        ("iou", "dice", "accuracy", "specificity", "sensitivity"),
        {name: METRICS[name] for name in ("iou", "dice", "accuracy", "specificity", "sensitivity")},
        pooled=True,
    ),
    Protocol(
        "mamba-unet-acdc",
        "Dice is 0 where both masks are empty; HD95 is the percentile of the pooled distances and ASD the "
        "mean from prediction to reference, both in voxels and left out where a mask is empty. The published "
        "script has only Dice; HD95 and ASD are its commented lines.",
        ("dice", "hd95", "asd"),
        {"dice": METRICS["dice"], "hd95": medpy_hd95, "asd": METRICS["asd"]},
        symmetric_policy(both=(0, NAN), one=(0, NAN)),
        in_voxels,
        in_mm=(),
    ),
    Protocol(
        "brats-lesionwise",
        "Mean over lesions instead of voxels: missed and invented lesions score Dice 0 and HD95 374 mm, "
        "lesions of up to 50 mm^3 are left out, and nothing at all scores 1 and 0.",
        ("dice", "hd95"),
        {"dice": lesionwise_dice, "hd95": lesionwise_hd95},
        in_mm=("dice", "hd95"),
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in ROWS}


def get_protocol(name: str) -> Protocol:
    """Return the protocol of this name. ValueError if there is none."""
    if name not in PROTOCOLS:
        raise ValueError(format_unknown_name("protocol", name, PROTOCOLS, "nnunet-mamba evaluate --list"))
    return PROTOCOLS[name]
