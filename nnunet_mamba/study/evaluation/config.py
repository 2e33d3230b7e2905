"""Choice of labels, metrics and protocol to score by: from a dataset.json, from references, or by options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import get_reader_name
from nnunet_mamba.io.messages import format_unknown_name, join_names
from nnunet_mamba.study.evaluation.label_maps import read_label_map
from nnunet_mamba.study.evaluation.labels import (
    Label,
    check_label_values,
    choose_labels,
    known_values,
    labels_of_values,
    parse_region,
    select_scored_labels,
)
from nnunet_mamba.study.evaluation.masks import MaskPair, find_boxes
from nnunet_mamba.study.evaluation.metrics import EMPTY_POLICIES, METRICS
from nnunet_mamba.study.evaluation.protocols import (
    DEFAULT_TOLERANCE_MM,
    PROTOCOLS,
    Protocol,
    check_metrics,
)


@dataclass(frozen=True)
class EvaluationConfig:
    """Labels and metrics to score, and the protocol with all that is chosen otherwise.

    metrics        (): those that the protocol shows
    ignore         value of the ignore label, if there is one
    known          every value that a voxel may have; None: any
    tolerances_mm  for NSD by a label's number or name; "" for all others
    empty          name of an empty policy, instead of the protocol's own
    instances      the references number instances, of the only label
    reader         of nnU-Net, whose view of headers counts; "": its choice by ending
    spacing_mm     of files without a spacing, in the order of the array's axes
    """

    labels: tuple[Label, ...]
    metrics: tuple[str, ...] = ()
    protocol: Protocol = PROTOCOLS["honest"]
    ignore: int | None = None
    known: frozenset[int] | None = None
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    empty: str | None = None
    instances: bool = False
    reader: str = ""
    spacing_mm: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_metrics(self.protocol, self.metrics)
        if self.empty is not None and self.empty not in EMPTY_POLICIES:
            raise ValueError(format_unknown_name("empty policy", self.empty, EMPTY_POLICIES))
        if (self.empty is not None or self.tolerances_mm) and self.protocol.name != "honest":
            raise ValueError(
                f"The protocol {self.protocol.name} has its own rules; choose others with honest only."
            )
        named = {word for label in self.labels for word in (label.number, label.name)} | {""}
        if unscored := sorted(set(self.tolerances_mm) - named):
            raise ValueError(f"There is a tolerance for {', '.join(unscored)}, but no such label is scored.")
        check_tolerances(self.tolerances_mm)
        if self.instances and len(self.labels) != 1:
            raise ValueError(
                "References that number instances need exactly one label, that of the prediction."
            )
        if self.spacing_mm is not None and not all(0 < mm < math.inf for mm in self.spacing_mm):
            raise ValueError(f"Spacings are above 0 mm, not {self.spacing_mm}.")

    @property
    def computed(self) -> tuple[str, ...]:
        """Return the metrics to compute, each once."""
        return tuple(dict.fromkeys(self.metrics or self.protocol.shown))

    def values(self, label: Label, pair: MaskPair) -> dict[str, float]:
        """Return every metric of a label's masks, by the protocol and the chosen empty policy."""
        protocol = self.protocol
        if self.empty is not None:
            protocol = replace(protocol, empty=EMPTY_POLICIES[self.empty])
        prepared = protocol.prepare(label, pair)
        return {metric: float(protocol.value(metric, prepared)) for metric in self.computed}

    def protocol_text(self, metric: str) -> str:
        """Return the protocol as the table names it in rows of a metric, with what is chosen otherwise."""
        tolerances = self._tolerances_text() if METRICS[metric].uses_tolerance else []
        empty = [f"empty={self.empty}"] if self.empty else []
        return " ".join([self.protocol.name, *tolerances, *empty])

    def _tolerances_text(self) -> list[str]:
        if not self.tolerances_mm:
            return []
        each = {label.number: self.tolerance_mm(label) for label in self.labels}
        if len(set(each.values())) == 1:
            mm = next(iter(each.values()))
            return [] if mm == DEFAULT_TOLERANCE_MM else [f"tolerance-mm={mm:g}"]
        return ["tolerance-mm=" + ",".join(f"{number}={mm:g}" for number, mm in sorted(each.items()))]

    def tolerance_mm(self, label: Label) -> float:
        """Return a label's tolerance: given by number, by name or for all labels, else the protocol's."""
        for key in (label.number, label.name, ""):
            if key in self.tolerances_mm:
                return self.tolerances_mm[key]
        tolerance = self.protocol.tolerance_mm(label)
        if tolerance is None and any(METRICS[metric].uses_tolerance for metric in self.computed):
            raise ValueError(
                f"The protocol {self.protocol.name} has no tolerance for the label {label.number} "
                f"{label.name!r}. Score fewer labels, or other metrics."
            )
        return DEFAULT_TOLERANCE_MM if tolerance is None else tolerance


def choose_config(
    dataset_json: dict[str, Any] | None,
    references: Iterable[Path],
    *,
    labels: Sequence[str] = (),
    regions: Sequence[str] = (),
    instances: bool = False,
    **options: Any,
) -> EvaluationConfig:
    """Return the configuration for the labels or regions that a user names; by default those of dataset.json,
    or of the references if there is none.

    Args:
        labels: by number or name.
        regions: NAME=1+2+3, instead of labels.
        options: other fields of `EvaluationConfig`.
    """
    options["instances"] = instances
    known = select_scored_labels(dataset_json)[0] if dataset_json else ()
    chosen = tuple(map(parse_region, regions)) or choose_labels(known, labels)
    if instances and not chosen:
        chosen = choose_labels(known, ["1"])
    if chosen:
        options["labels"] = tuple(dict.fromkeys(chosen))
    if dataset_json:
        check_label_values(chosen, dataset_json)
        return config_from_dataset_json(dataset_json, **options)
    return EvaluationConfig(**options) if chosen else config_from_references(references, **options)


def config_from_dataset_json(dataset_json: dict[str, Any], **options: Any) -> EvaluationConfig:
    """Return the configuration for the labels of a dataset.json; `options` are other fields."""
    labels, ignore = select_scored_labels(dataset_json)
    of_files = {"known": known_values(dataset_json), "reader": get_reader_name(dataset_json)}
    return EvaluationConfig(**{"labels": labels, "ignore": ignore, **of_files, **options})


def config_from_references(references: Iterable[Path], **options: Any) -> EvaluationConfig:
    """Return the configuration for labels that a dataset.json does not name: every value but 0 that is in the
    references. ValueError if there is none."""
    files = list(references)
    values = {value for file in files for value in find_boxes(read_label_map(file).array)}
    if not values:
        folders = join_names(sorted({str(file.parent) for file in files}))
        raise ValueError(f"No reference in {folders} holds a label.")
    found = {"labels": labels_of_values(values), "known": frozenset({0, *values})}
    return EvaluationConfig(**{**found, **options})


def parse_tolerances(texts: Iterable[str]) -> dict[str, float]:
    """Return tolerances in mm by label: {"": 2.0} of "2", for all labels; {"liver": 5.0} of "liver=5"."""
    tolerances = {}
    for text in texts:
        label, _, number = text.rpartition("=")
        try:
            tolerances[label] = float(number)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a tolerance; expected 2 or LABEL=2, in mm.") from error
    check_tolerances(tolerances)
    return tolerances


def check_tolerances(tolerances_mm: Mapping[str, float]) -> None:
    """Raise ValueError for tolerances that are negative, infinite or NaN."""
    if not all(0 <= mm < math.inf for mm in tolerances_mm.values()):
        raise ValueError(f"Tolerances are finite and 0 mm or more, not {dict(tolerances_mm)}.")
