"""Scores of many cases: each is read, scored and forgotten, several at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnunet_mamba.io.images import spacing_file
from nnunet_mamba.io.messages import unknown
from nnunet_mamba.study.evaluation.label_maps import LabelMap, on_one_grid, read_label_map
from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.metrics import EMPTY_POLICIES, OF_COUNTS, SURFACE_METRICS
from nnunet_mamba.study.evaluation.pairs import Case, Counts, boxes_of
from nnunet_mamba.study.evaluation.protocols import (
    DEFAULT_TOLERANCE_MM,
    Protocol,
    protocol_of,
    require_metrics,
)
from nnunet_mamba.study.evaluation.table import Origin, Score

POOLED = "(all)"  # the case of a score that all cases have together
SHOWN_ERRORS = 10
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Rules:
    """What is scored, and how.

    known          every value that a voxel may have; None: whatever comes
    tolerances_mm  for NSD by a label's number or name; "" for all others
    empty          the name of an empty policy instead of the protocol's
    instances      the references number instances, of the one label there is
    reader         of nnU-Net, whose view of headers counts; "": its choice by ending
    spacing_mm     of files that do not tell theirs, in the order of the array's axes
    """

    labels: tuple[Label, ...]
    metrics: tuple[str, ...] = ()
    protocol: str = "honest"
    ignore: int | None = None
    known: frozenset[int] | None = None
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    empty: str | None = None
    instances: bool = False
    reader: str = ""
    spacing_mm: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        protocol = protocol_of(self.protocol)
        require_metrics(protocol, self.metrics)
        if self.empty is not None and self.empty not in EMPTY_POLICIES:
            raise ValueError(unknown("empty policy", self.empty, EMPTY_POLICIES))
        if (self.empty is not None or self.tolerances_mm) and protocol.name != "honest":
            raise ValueError(
                f"The protocol {protocol.name} has its own rules; choose others with honest only."
            )
        named = {word for label in self.labels for word in (label.number, label.name)} | {""}
        if strangers := sorted(set(self.tolerances_mm) - named):
            raise ValueError(f"There is a tolerance for {', '.join(strangers)}, but no such label is scored.")
        if any(not mm >= 0 for mm in self.tolerances_mm.values()):
            raise ValueError(f"Tolerances are 0 mm or more, not {dict(self.tolerances_mm)}.")
        if self.instances and len(self.labels) != 1:
            raise ValueError(
                "References that number instances need exactly one label, that of the prediction."
            )
        if self.spacing_mm is not None and not all(0 < mm < math.inf for mm in self.spacing_mm):
            raise ValueError(f"Spacings are above 0 mm, not {self.spacing_mm}.")

    @property
    def rules(self) -> Protocol:
        rules = protocol_of(self.protocol)
        return rules if self.empty is None else replace(rules, empty=EMPTY_POLICIES[self.empty])

    @property
    def computed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.metrics or self.rules.shown))

    def written(self, metric: str) -> str:
        """The protocol as the table names it in rows of a metric: with all that was chosen otherwise."""
        empty = [f"empty={self.empty}"] if self.empty else []
        return " ".join([self.protocol, *(self._written_tolerances() if metric == "nsd" else []), *empty])

    def _written_tolerances(self) -> list[str]:
        if not self.tolerances_mm:
            return []
        each = {label.number: self.tolerance_mm(label) for label in self.labels}
        if len(set(each.values())) == 1:
            mm = next(iter(each.values()))
            return [] if mm == DEFAULT_TOLERANCE_MM else [f"tolerance-mm={mm:g}"]
        return ["tolerance-mm=" + ",".join(f"{number}={mm:g}" for number, mm in sorted(each.items()))]

    def tolerance_mm(self, label: Label) -> float:
        """Of a label, for NSD: given by number, name or for all, or else the protocol's."""
        for key in (label.number, label.name, ""):
            if key in self.tolerances_mm:
                return self.tolerances_mm[key]
        tolerance = self.rules.tolerance_mm(label)
        if tolerance is None and "nsd" in self.computed:
            raise ValueError(
                f"The protocol {self.protocol} has no tolerance for the label {label.number} {label.name!r}. "
                "Score fewer labels, or other metrics."
            )
        return DEFAULT_TOLERANCE_MM if tolerance is None else tolerance


@dataclass(frozen=True)
class Task:
    """A case to score. No prediction: the case is scored as if nothing had been found."""

    case: str
    prediction: Path | None
    reference: Path
    rules: Rules
    origin: Origin


def score_tasks(
    tasks: Sequence[Task], *, jobs: int = 1, progress: Progress = lambda done, total: None
) -> list[Score]:
    """All scores, in the order of tasks; `jobs` threads. Faults of the files are told together."""
    pooled = [task for task in tasks if task.rules.rules.pooled]
    each = [task for task in tasks if not task.rules.rules.pooled]
    scores = [score for found in mapped(score_case, each, jobs, progress) for score in found]
    return scores + pooled_scores(pooled, mapped(count_case, pooled, jobs, progress))


def score_case(task: Task) -> list[Score]:
    """Every metric of every label of one case."""
    case, rules = read_case(task), task.rules
    scores = []
    for label in rules.labels:
        pair = case.pair(label, rules.tolerance_mm(label))
        prepared = rules.rules.prepare(label, pair)
        for metric in rules.computed:
            value = float(rules.rules.value(metric, prepared))
            scores.append(score(task, label, metric, value, pair.counts))
    return scores


def count_case(task: Task) -> list[Counts]:
    """The confusion matrix of each label."""
    case = read_case(task)
    return [case.pair(label).counts for label in task.rules.labels]


def pooled_scores(tasks: Sequence[Task], counts: Iterable[Sequence[Counts]]) -> list[Score]:
    """Metrics of the confusion matrices summed over the cases of one origin; 0 where undefined."""
    sums: dict[Origin, tuple[Task, list[Counts]]] = {}
    for task, found in zip(tasks, counts, strict=True):
        _, before = sums.get(task.origin, (task, [Counts(0, 0, 0, 0)] * len(found)))
        sums[task.origin] = task, [a + b for a, b in zip(before, found, strict=True)]
    scores = []
    for task, summed in sums.values():
        for label, c in zip(task.rules.labels, summed, strict=True):
            for metric in task.rules.computed:
                value = OF_COUNTS[metric](c)
                value = 0.0 if math.isnan(value) else value
                scores.append(score(replace(task, case=POOLED), label, metric, value, c))
    return scores


def score(task: Task, label: Label, metric: str, value: float, counts: Counts) -> Score:
    backend = "monai" if metric in SURFACE_METRICS else "numpy"
    return Score(
        task.case,
        label.number,
        label.name,
        metric,
        value,
        counts.in_reference,
        counts.empty,
        **asdict(task.origin),
        backend=backend,
        version=installed(backend),
        protocol=task.rules.written(metric),
    )


@lru_cache
def installed(package: str) -> str:
    return version(package)


def read_case(task: Task) -> Case:
    """Both label maps, checked against each other and the labels that there may be."""
    rules = task.rules
    reference = read_label_map(task.reference, rules.reader, rules.spacing_mm)
    if task.prediction is None:
        prediction = replace(reference, array=np.zeros_like(reference.array))
    else:
        prediction = read_label_map(task.prediction, rules.reader, rules.spacing_mm)
        prediction = on_one_grid(prediction, reference, rules.reader)
    for label_map in (prediction,) if rules.instances else (prediction, reference):
        require_known(label_map, rules)
    spacing_mm = reference.spacing_mm or prediction.spacing_mm
    if spacing_mm is None:
        require_no_lengths(reference, rules)
        spacing_mm = (1.0,) * reference.array.ndim
    return Case(prediction.array, reference.array, spacing_mm, rules.ignore, rules.instances)


def require_no_lengths(label_map: LabelMap, rules: Rules) -> None:
    """Refuse metrics that depend on the size of voxels, which nobody tells."""
    if metrics := [metric for metric in rules.computed if metric in rules.rules.in_mm]:
        raise ValueError(
            f"{label_map.file} is a volume in a TIFF file, and {spacing_file(label_map.file).name} with its "
            f"spacing is not beside it, without which {', '.join(metrics)} cannot be computed. Put it there "
            '({"spacing": [z, y, x]}), give --spacing Z Y X in mm, or choose other --metrics.'
        )


def require_known(label_map: LabelMap, rules: Rules) -> None:
    """Refuse a map with a label that nobody has announced: it would be scored by nobody."""
    if rules.known is None:
        return
    found = sorted({int(v) for v in boxes_of(label_map.array)} - rules.known)
    if found:
        values, known = (", ".join(map(str, some)) for some in (found[:SHOWN_ERRORS], sorted(rules.known)))
        raise ValueError(
            f"{label_map.file} holds {'labels' if len(found) > 1 else 'the label'} {values}, which the "
            f"data set does not have ({known}). Give the --dataset-json of these files; store the values of "
            "masks as it numbers them, such as 1 instead of 255."
        )


def mapped(work: Callable[[Task], T], tasks: Sequence[Task], jobs: int, progress: Progress) -> list[T]:
    """`work` of every task, in order. ValueErrors are collected into one."""
    results: list[T] = []
    errors: list[str] = []

    def take(outcome: T | ValueError) -> None:
        if isinstance(outcome, ValueError):
            errors.append(str(outcome))
        else:
            results.append(outcome)
        progress(len(results) + len(errors), len(tasks))

    def guarded(task: Task) -> T | ValueError:
        try:
            return work(task)
        except ValueError as error:
            return error

    # threads: what takes time is compiled and lets others run, and a process takes seconds to start
    with one_thread(), ThreadPoolExecutor(max(1, jobs), initializer=set_one_thread) as pool:
        for outcome in pool.map(guarded, tasks):
            take(outcome)
    if errors:
        more = [f"and {len(errors) - SHOWN_ERRORS} more"] if len(errors) > SHOWN_ERRORS else []
        raise ValueError("\n".join([*errors[:SHOWN_ERRORS], *more]))
    return results


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's threads wait for each other longer than they compute on masks of this size."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_one_thread() -> None:
    """Where torch is built with OpenMP, each of our threads has a number of its own."""
    import torch

    torch.set_num_threads(1)
