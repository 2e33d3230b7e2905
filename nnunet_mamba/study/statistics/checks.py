"""What would make a comparison unfair: refused with the names of what differs, or warned of.

A part is the table of one dataset and metric as a frame; besides the table's columns it has `method`, its
short `name`, and `label` as (number, name).
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

SHOWN = 5  # names in a message


def check(part: pd.DataFrame) -> None:
    """ValueError for rows that are there twice, or where the methods were not scored alike."""
    _require_once(part)
    _require_one_protocol(part)
    _require_same(part, "labels", part["label"].map(label_text), "Score the same labels.")
    _require_same(part, "cases", part["case"], "Predict and score the same cases with every method.")
    cells = part["case"] + " " + part["label"].map(label_text)
    _require_same(part, "labels of cases", cells, "Score the same labels in each case.")
    known = part[part["fold"] != ""]
    _require_agreement(known, ["case"], "fold", "Train all methods with one splits_final.json.")
    _require_agreement(part, ["case", "label"], "n_voxels", "Score all methods against the same references.")
    _require_finite(part)


def _require_once(part: pd.DataFrame) -> None:
    twice = part[part.duplicated(["name", "case", "label"], keep=False)]
    if not twice.empty:
        folds = ", ".join(f"fold {fold or 'unknown'}" for fold in sorted(set(twice["fold"])))
        raise ValueError(
            f"{_where(part)}: rows are there twice ({folds}): {_rows(twice)}. "
            "Give each case of a method once."
        )


def _require_one_protocol(part: pd.DataFrame) -> None:
    if part["protocol"].nunique() > 1:
        used = part.drop_duplicates(["name", "protocol"]).groupby("name", sort=False)["protocol"]
        stated = (f"{name}: {' and '.join(p or 'not stated' for p in each)}" for name, each in used)
        raise ValueError(
            f"{_where(part)}: scored by different protocols: {listed(stated, '; ')}. "
            "Score all methods by one."
        )


def _require_same(part: pd.DataFrame, what: str, column: pd.Series, remedy: str) -> None:
    """Every method has the same set of entries in `column`."""
    sets = {name: set(entries) for name, entries in column.groupby(part["name"], sort=False)}
    everything = set().union(*sets.values())
    lacking = {name: sorted(everything - own) for name, own in sets.items() if own != everything}
    if lacking:
        texts = [f"{name} lacks {listed(entries)}" for name, entries in lacking.items()]
        raise ValueError(f"{_where(part)}: different {what}: {'; '.join(texts)}. {remedy}")


def _require_agreement(part: pd.DataFrame, key: list[str], column: str, remedy: str) -> None:
    """Every `key` has one value in `column`, whichever the method."""
    differing = part[part.groupby(key)[column].transform("nunique") > 1]
    if not differing.empty:
        texts = []
        for (case, *label), rows in differing.groupby(key):
            each = rows.drop_duplicates(["name", column])
            values = ", ".join(f"{v} in {name}" for name, v in zip(each["name"], each[column], strict=True))
            texts.append(f"{' '.join([case, *map(label_text, label)])} ({values})")
        raise ValueError(f"{_where(part)}: {column} differs by method: {listed(texts, '; ')}. {remedy}")


def _require_finite(part: pd.DataFrame) -> None:
    infinite = part[np.isinf(part["value"])]
    if not infinite.empty:
        raise ValueError(
            f"{_where(part)}: infinite values have no mean: {_rows(infinite)}. Score again with the image's "
            "diagonal as the distance of missed labels."
        )


def warnings(part: pd.DataFrame, group: str | None) -> list[str]:
    """What does not forbid a comparison, and should be known."""
    by_name = part.assign(program=part["backend"] + " " + part["version"]).groupby("name", sort=False)
    programs = by_name["program"].unique().map(listed)
    folds = by_name["fold"].unique()
    trained_on = [name for name, seen in folds.items() if "all" in seen]
    unknown = [name for name, seen in folds.items() if "" in seen]
    lengths = by_name["method"].first().map(lambda method: method.length or "its own")
    alike = several_cases_of_one(sorted(set(part["case"]))) if group is None else None
    found = {
        f"the values come from different programs: {_by_method(programs)}": programs.nunique() > 1,
        f"fold all: {listed(trained_on)} trained on the cases that they are scored on": trained_on,
        f"the folds of {listed(unknown)} are not known": unknown and len(unknown) < len(folds),
        f"trained for different lengths: {_by_method(lengths)}": lengths.nunique() > 1,
        f"{' and '.join(alike or ())} look like one patient; without --group, p-values and intervals of such "
        "cases are too small": alike,
    }
    return [text for text, applies in found.items() if applies]


def several_cases_of_one(cases: Sequence[str]) -> tuple[str, str] | None:
    """Two cases whose names differ in their last part, if most cases fall into many such small groups."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(re.sub(r"[_-][^_-]*$", "", case), []).append(case)
    several = [names for names in groups.values() if len(names) > 1]
    many = 2 * sum(map(len, several)) > len(cases) and len(groups) > max(1, len(cases) / 10)
    return (several[0][0], several[0][1]) if many else None


def label_text(label: tuple[str, str]) -> str:
    number, name = label
    return f"label {number} ({name})" if name else f"label {number}"


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return separator.join([*names[:SHOWN], *more])


def _by_method(texts: pd.Series) -> str:
    return listed((f"{name}: {text}" for name, text in texts.items()), "; ")


def _rows(part: pd.DataFrame) -> str:
    texts = part["name"] + " " + part["case"] + " " + part["label"].map(label_text)
    return listed(texts.unique())


def _where(part: pd.DataFrame) -> str:
    return f"{part['dataset'].iloc[0] or 'The tables'}, {part['metric'].iloc[0]}"
