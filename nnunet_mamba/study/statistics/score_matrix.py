"""From the tidy table to numbers that may be compared: one dataset and metric, every method on every case."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunet_mamba.study.evaluation import Score
from nnunet_mamba.study.statistics.checks import check, listed, warnings
from nnunet_mamba.study.statistics.methods import Method, short_names


@dataclass(frozen=True)
class Panel:
    """M methods x N cases x L labels. `values` has NaN where the metric is not defined."""

    dataset: str
    metric: str
    protocol: str
    methods: tuple[Method, ...]
    names: tuple[str, ...]
    cases: tuple[str, ...]
    patients: np.ndarray  # (N,) the patient of each case, by name
    folds: tuple[tuple[str, ...], ...]  # (M, N)
    labels: tuple[tuple[str, str], ...]  # number and name
    values: np.ndarray
    warnings: tuple[str, ...]


def panels(
    scores: Iterable[Score], metric: str, group: str | None = None, *, fewest_methods: int = 2
) -> list[Panel]:
    """One for each dataset that has `fewest_methods`; methods in order of their names.

    `group` is a pattern: cases whose names begin with the same match are of one patient.
    ValueError for what cannot be compared.
    """
    _require_pattern(group)
    frame = pd.DataFrame([vars(score) for score in scores])
    if frame.empty or metric not in set(frame["metric"]):
        found = listed(sorted(set(frame["metric"]))) if len(frame) else "no rows at all"
        raise ValueError(f"The tables have no row of the metric {metric!r}; they have {found}.")
    frame = frame[frame["metric"] == metric]
    keys = frame[["trainer", "plans", "configuration"]].itertuples(index=False, name=None)
    frame = frame.assign(method=[Method(*key) for key in keys])
    methods = sorted(set(frame["method"]))
    if len(methods) < fewest_methods:
        raise ValueError(
            f"The tables have one method only, {methods[0]}; add the table of another. Of one alone, "
            "`nnunet-mamba report` makes a page."
        )
    names = dict(zip(methods, short_names(methods), strict=True))
    parts = dict(list(frame.groupby("dataset", sort=True)))
    alone = [str(dataset) for dataset, part in parts.items() if part["method"].nunique() < fewest_methods]
    if len(alone) == len(parts):
        raise ValueError(f"No dataset was scored with two methods: {listed(names.values())} share none.")
    left_out = (f"left out, for want of a second method: {listed(alone)}",) if alone else ()
    return [
        _panel(part, names, group, left_out) for dataset, part in parts.items() if str(dataset) not in alone
    ]


def _panel(
    part: pd.DataFrame, names: Mapping[Method, str], group: str | None, known: tuple[str, ...]
) -> Panel:
    own = set(part["method"])
    methods = [method for method in names if method in own]
    part = part.assign(
        name=part["method"].map(names), label=list(zip(part["label"], part["label_name"], strict=True))
    )
    part = part.sort_values(["method", "case", "label", "fold"], kind="stable")
    check(part)
    cases = sorted(set(part["case"]))
    labels = sorted(set(part["label"]), key=lambda label: (_numbers(label[0]), label))
    values = part.set_index(["method", "case", "label"])["value"].to_dict()
    folds = part.set_index(["method", "case"])["fold"].to_dict()
    return Panel(
        dataset=part["dataset"].iloc[0],
        metric=part["metric"].iloc[0],
        protocol=part["protocol"].iloc[0],
        methods=tuple(methods),
        names=tuple(names[method] for method in methods),
        cases=tuple(cases),
        patients=np.array([patient_of(case, group) for case in cases]),
        folds=tuple(tuple(folds[m, case] for case in cases) for m in methods),
        labels=tuple(labels),
        values=np.array(
            [[[values.get((m, c, label), np.nan) for label in labels] for c in cases] for m in methods], float
        ),
        warnings=(*known, *warnings(part, group)),
    )


def patient_of(case: str, group: str | None) -> str:
    """What the pattern matches at the beginning of the case's name; the whole name without a pattern."""
    if group is None:
        return case
    match = re.match(group, case)
    if not match or not match[0]:
        raise ValueError(
            f"The case {case!r} does not begin as --group has it ({group}); give another pattern."
        )
    return match[0]


def _require_pattern(group: str | None) -> None:
    try:
        re.compile(group or "")
    except re.error as error:
        raise ValueError(f"--group {group!r} is no regular expression: {error}.") from error


def _numbers(label: str) -> tuple[int, ...]:
    """For sorting: 2 before 10; a region, 1+2+3, behind its first label."""
    return tuple(int(number) if number.isdigit() else 0 for number in label.split("+"))
