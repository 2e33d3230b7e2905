"""Scores of many cases: each is read, scored and dropped again, several at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnunet_mamba.io.images import get_spacing_file
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.study.evaluation.config import EvaluationConfig
from nnunet_mamba.study.evaluation.label_maps import LabelMap, align_to_reference, read_label_map
from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.masks import ConfusionCounts, LabelMapPair, find_boxes
from nnunet_mamba.study.evaluation.metrics import METRICS
from nnunet_mamba.study.evaluation.table import Origin, Score

POOLED = "(all)"  # case of a score that is computed over all cases
SHOWN_ERRORS = 10
Progress = Callable[[int, int], None]  # gets the numbers of cases done and in all
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationTask:
    """Case to score. Without a prediction it is scored as an empty one."""

    case: str
    prediction: Path | None
    reference: Path
    config: EvaluationConfig
    origin: Origin


def score_tasks(
    tasks: Sequence[EvaluationTask], *, jobs: int = 1, progress: Progress = lambda done, total: None
) -> list[Score]:
    """Return all scores in the order of tasks, computed by `jobs` threads.

    ValueError with a line for each case that cannot be scored.
    """
    pooled = [task for task in tasks if task.config.protocol.pooled]
    each = [task for task in tasks if not task.config.protocol.pooled]
    scores = [score for found in map_tasks(score_case, each, jobs, progress) for score in found]
    return scores + compute_pooled_scores(pooled, map_tasks(count_case, pooled, jobs, progress))


def check_unique_cases(tasks: Iterable[EvaluationTask]) -> None:
    """Raise ValueError if two folders hold a case of one origin: the table could not tell them apart."""
    known: dict[tuple[Origin, str], EvaluationTask] = {}
    for task in tasks:
        other = known.setdefault((task.origin, task.case), task)
        if other is not task:
            raise ValueError(
                f"{task.case} would be scored twice as one: {other.prediction} and {task.prediction} have "
                "the same trainer, plans, configuration, fold and seed. Score one folder, or each by itself."
            )


def score_case(task: EvaluationTask) -> list[Score]:
    """Return every metric of every label of one case."""
    case, config = read_case(task), task.config
    scores = []
    for label in config.labels:
        pair = case.pair(label, config.tolerance_mm(label))
        for metric, value in config.values(label, pair).items():
            scores.append(make_score(task, label, metric, value, pair.counts))
    return scores


def count_case(task: EvaluationTask) -> list[ConfusionCounts]:
    """Return the confusion matrix of each label of one case."""
    case = read_case(task)
    return [case.pair(label).counts for label in task.config.labels]


def compute_pooled_scores(
    tasks: Sequence[EvaluationTask], counts: Iterable[Sequence[ConfusionCounts]]
) -> list[Score]:
    """Return the metrics of the confusion matrices summed over the cases of one origin; 0 if undefined."""
    sums: dict[Origin, tuple[EvaluationTask, list[ConfusionCounts]]] = {}
    for task, found in zip(tasks, counts, strict=True):
        _, before = sums.get(task.origin, (task, [ConfusionCounts(0, 0, 0, 0)] * len(found)))
        sums[task.origin] = task, [a + b for a, b in zip(before, found, strict=True)]
    scores = []
    for task, summed in sums.values():
        for label, c in zip(task.config.labels, summed, strict=True):
            for metric in task.config.computed:
                value = METRICS[metric].measure(c)
                value = 0.0 if math.isnan(value) else value
                scores.append(make_score(replace(task, case=POOLED), label, metric, value, c))
    return scores


def make_score(
    task: EvaluationTask, label: Label, metric: str, value: float, counts: ConfusionCounts
) -> Score:
    """Return the table's row for a value."""
    backend = "monai" if METRICS[metric].uses_surfaces else "numpy"
    return Score(
        task.case,
        label.number,
        label.name,
        metric,
        value,
        counts.in_reference,
        counts.empty_side,
        **asdict(task.origin),
        backend=backend,
        version=installed_version(backend),
        protocol=task.config.protocol_text(metric),
    )


@lru_cache
def installed_version(package: str) -> str:
    return version(package)


def read_case(task: EvaluationTask) -> LabelMapPair:
    """Return both label maps, on one grid and with known labels only."""
    config = task.config
    reference = read_label_map(task.reference, config.reader, config.spacing_mm)
    if task.prediction is None:
        prediction = replace(reference, array=np.zeros_like(reference.array))
    else:
        prediction = read_label_map(task.prediction, config.reader, config.spacing_mm)
        prediction = align_to_reference(prediction, reference, config.reader)
    for label_map in (prediction,) if config.instances else (prediction, reference):
        check_known_values(label_map, config)
    spacing_mm = reference.spacing_mm or prediction.spacing_mm
    if spacing_mm is None:
        check_without_spacing(reference, config)
        spacing_mm = (1.0,) * reference.array.ndim
    return LabelMapPair(prediction.array, reference.array, spacing_mm, config.ignore, config.instances)


def check_without_spacing(label_map: LabelMap, config: EvaluationConfig) -> None:
    """Raise ValueError for metrics that depend on the size of voxels, which is unknown for this map."""
    if metrics := [metric for metric in config.computed if config.protocol.needs_spacing(metric)]:
        raise ValueError(
            f"{label_map.file} is a volume in a TIFF file, and {get_spacing_file(label_map.file).name} with "
            f"its spacing is not beside it: {', '.join(metrics)} cannot be computed. Put it there "
            '({"spacing": [z, y, x]}), give --spacing Z Y X in mm, or choose other --metrics.'
        )


def check_known_values(label_map: LabelMap, config: EvaluationConfig) -> None:
    """Raise ValueError for a map with a value that the data set does not have: it would be left out of the
    scores."""
    if config.known is None:
        return
    found = sorted({int(v) for v in find_boxes(label_map.array)} - config.known)
    if found:
        values = join_names(map(str, found), limit=SHOWN_ERRORS)
        known = ", ".join(map(str, sorted(config.known)))
        raise ValueError(
            f"{label_map.file} holds {'labels' if len(found) > 1 else 'the label'} {values}, which the "
            f"data set does not have ({known}). Give the --dataset-json of these files; store the values of "
            "masks as it numbers them, such as 1 instead of 255."
        )


def map_tasks(
    work: Callable[[EvaluationTask], T], tasks: Sequence[EvaluationTask], jobs: int, progress: Progress
) -> list[T]:
    """Return `work` of every task, in order; their ValueErrors are joined into one."""
    results: list[T] = []
    errors: list[str] = []

    def add_outcome(outcome: T | ValueError) -> None:
        if isinstance(outcome, ValueError):
            errors.append(str(outcome))
        else:
            results.append(outcome)
        progress(len(results) + len(errors), len(tasks))

    def run_task(task: EvaluationTask) -> T | ValueError:
        try:
            return work(task)
        except ValueError as error:
            return error

    # threads, not processes: the slow parts release the GIL, and a process takes seconds to start
    with one_torch_thread(), ThreadPoolExecutor(max(1, jobs), initializer=set_one_torch_thread) as pool:
        for outcome in pool.map(run_task, tasks):
            add_outcome(outcome)
    if errors:
        more = [f"and {len(errors) - SHOWN_ERRORS} more"] if len(errors) > SHOWN_ERRORS else []
        raise ValueError("\n".join([*errors[:SHOWN_ERRORS], *more]))
    return results


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run the block with one thread of torch: on masks of this size, more wait longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_one_torch_thread() -> None:
    """Set torch's threads to one in the calling thread: with OpenMP, the number is kept per thread."""
    import torch

    torch.set_num_threads(1)
