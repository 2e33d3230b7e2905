"""The tidy table: one row per case, label and metric; everything else is computed from it."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Score:
    """One number. `value` is NaN where the metric is not defined, and then not counted."""

    case: str
    label: str
    label_name: str
    metric: str  # "dice", or "hd95" in mm
    value: float
    n_voxels: int  # of the label in the reference
    empty: str  # which mask has no voxel: "", "prediction", "reference" or "both"


@dataclass(frozen=True)
class Summary:
    """One metric of one label over the cases where it is defined."""

    label: str
    label_name: str
    metric: str
    mean: float
    sd: float  # of the sample; NaN for a single case
    n_cases: int
    n_excluded: int  # both masks empty


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """Mean, SD and number of cases per label and metric, in order of appearance."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for score in scores:
        groups.setdefault((score.label, score.label_name, score.metric), []).append(score.value)
    return [summary(*key, values) for key, values in groups.items()]


def summary(label: str, label_name: str, metric: str, values: Sequence[float]) -> Summary:
    """One row; NaN values are excluded and counted as such."""
    defined = np.array(values)[~np.isnan(values)]
    mean = float(defined.mean()) if defined.size else float("nan")
    sd = float(defined.std(ddof=1)) if defined.size > 1 else float("nan")
    return Summary(label, label_name, metric, mean, sd, defined.size, len(values) - defined.size)


def mean_foreground(scores: Iterable[Score], metric: str = "dice") -> float:
    """The mean over labels of the mean over cases, as nnU-Net's summary.json has it."""
    means = [row.mean for row in summarise(scores) if row.metric == metric]
    return float(np.nanmean(means)) if np.isfinite(means).any() else float("nan")


def write_csv(scores: Iterable[Score], file: Path) -> None:
    """One header line, then one line per score."""
    with Path(file).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


def read_csv(file: Path) -> list[Score]:
    """The scores that `write_csv` wrote."""
    with Path(file).open(newline="", encoding="utf-8") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    for row in rows:
        row["value"], row["n_voxels"] = float(row["value"]), int(row["n_voxels"])
    return [Score(**row) for row in rows]
