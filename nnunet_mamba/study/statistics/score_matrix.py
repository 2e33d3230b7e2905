"""Score matrix of one dataset and metric, every method on every case, built from the table of scores.

What would make a comparison unfair raises ValueError with the names of what differs, or is warned of. A part
is the table of one dataset and metric as a frame; besides the table's columns it has `method`, its short
`name`, and `label` as (number, name).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation import Score
from nnunet_mamba.study.statistics.methods import shorten_method_names, training_length


@dataclass(frozen=True)
class ScoreMatrix:
    """Values of M methods x S seeds x N cases x L labels; NaN where the metric is not defined."""

    dataset: str
    metric: str
    protocol: str
    methods: tuple[Method, ...]
    names: tuple[str, ...]
    cases: tuple[str, ...]
    patients: np.ndarray  # (N,) the patient of each case, by name
    folds: tuple[tuple[str, ...], ...]  # (M, N)
    seeds: tuple[tuple[str, ...], ...]  # (M, S); "" if it is not known
    labels: tuple[tuple[str, str], ...]  # number and name
    values: np.ndarray
    warnings: tuple[str, ...]


def build_score_matrices(
    scores: Iterable[Score], metric: str, group: str | None = None, *, fewest_methods: int = 2
) -> list[ScoreMatrix]:
    """Return a matrix for each dataset with at least `fewest_methods`, methods in order of their names.

    ValueError for scores that cannot be compared.

    Args:
        group: regular expression; cases whose names begin with the same match are of one patient.
    """
    _check_pattern(group)
    frame = pd.DataFrame([vars(score) for score in scores])
    if frame.empty or metric not in set(frame["metric"]):
        found = join_names(sorted(set(frame["metric"]))) if len(frame) else "no rows at all"
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
    names = dict(zip(methods, shorten_method_names(methods), strict=True))
    parts = dict(list(frame.groupby("dataset", sort=True)))
    alone = [str(dataset) for dataset, part in parts.items() if part["method"].nunique() < fewest_methods]
    if len(alone) == len(parts):
        raise ValueError(f"No dataset was scored with two methods: {join_names(names.values())} share none.")
    left_out = (f"left out, without a second method: {join_names(alone)}",) if alone else ()
    return [
        _build_matrix(part, names, group, left_out)
        for dataset, part in parts.items()
        if str(dataset) not in alone
    ]


def _build_matrix(
    part: pd.DataFrame, names: Mapping[Method, str], group: str | None, known: tuple[str, ...]
) -> ScoreMatrix:
    own = set(part["method"])
    methods = [method for method in names if method in own]
    part = part.assign(
        name=[names[method] for method in part["method"]],  # pandas 2 maps by no dict of tuples
        label=list(zip(part["label"], part["label_name"], strict=True)),
    )
    part = part.sort_values(["method", "case", "label", "fold", "seed"], kind="stable")
    check_comparable(part)
    seeds = {m: sorted(own, key=_numbers) for m, own in part.groupby("method")["seed"].unique().items()}
    cases = sorted(set(part["case"]))
    labels = sorted(set(part["label"]), key=lambda label: (_numbers(label[0]), label))
    values = part.set_index(["method", "seed", "case", "label"])["value"].to_dict()
    folds = part.set_index(["method", "case"])["fold"].to_dict()
    return ScoreMatrix(
        dataset=part["dataset"].iloc[0],
        metric=part["metric"].iloc[0],
        protocol=part["protocol"].iloc[0],
        methods=tuple(methods),
        names=tuple(names[method] for method in methods),
        cases=tuple(cases),
        patients=np.array([match_patient(case, group) for case in cases]),
        folds=tuple(tuple(folds[m, case] for case in cases) for m in methods),
        seeds=tuple(tuple(seeds[m]) for m in methods),
        labels=tuple(labels),
        values=np.array(
            [
                [[[values.get((m, s, c, each), np.nan) for each in labels] for c in cases] for s in seeds[m]]
                for m in methods
            ],
            float,
        ),
        warnings=(*known, *find_warnings(part, group)),
    )


def match_patient(case: str, group: str | None) -> str:
    """Return what the pattern matches at the beginning of the case's name, by default the whole name."""
    if group is None:
        return case
    match = re.match(group, case)
    if not match or not match[0]:
        raise ValueError(
            f"The case {case!r} does not begin as --group has it ({group}); give another pattern."
        )
    return match[0]


def _check_pattern(group: str | None) -> None:
    try:
        re.compile(group or "")
    except re.error as error:
        raise ValueError(f"--group {group!r} is not a regular expression: {error}.") from error


def _numbers(label: str) -> tuple[int, ...]:
    """Return a key for sorting labels and seeds: 2 before 10; a region, 1+2+3, behind its first label."""
    return tuple(int(number) if number.isdigit() else 0 for number in label.split("+"))


def check_comparable(part: pd.DataFrame) -> None:
    """Raise ValueError for rows that appear twice, or methods that were not scored alike."""
    _check_unique_rows(part)
    _check_one_protocol(part)
    _check_same_entries(part, "labels", part["label"].map(format_label), "Score the same labels.")
    _check_same_entries(part, "cases", part["case"], "Predict and score the same cases with every method.")
    cells = part["case"] + " " + part["label"].map(format_label)
    _check_same_entries(part, "labels of cases", cells, "Score the same labels in each case.")
    known = part[part["fold"] != ""]
    _check_agreement(known, ["case"], "fold", "Train all methods with one splits_final.json.")
    _check_agreement(part, ["case", "label"], "n_voxels", "Score all methods against the same references.")
    _check_same_seeds(part)
    _check_finite(part)


def _check_unique_rows(part: pd.DataFrame) -> None:
    repeated = part[part.duplicated(["name", "seed", "case", "label"], keep=False)]
    if not repeated.empty:
        folds = ", ".join(f"fold {fold or 'unknown'}" for fold in sorted(set(repeated["fold"])))
        raise ValueError(
            f"{_where(part)}: rows appear twice ({folds}): {_rows(repeated)}. "
            "Give each case of a method and seed once."
        )


def _check_same_seeds(part: pd.DataFrame) -> None:
    """Raise ValueError unless each method has every case and label by all of its seeds, and as many seeds as
    the others."""
    names, cells = part.groupby("name", sort=False), part.groupby(["name", "case", "label"], sort=False)
    found = cells["seed"].agg(set)
    lacking = found[found.map(len) < cells["name"].first().map(names["seed"].nunique())]
    if not lacking.empty:
        name, case, label = lacking.index[0]
        missing = sorted(set(part[part["name"] == name]["seed"]) - lacking.iloc[0], key=_numbers)
        seeds = join_names(seed or "unknown" for seed in missing)
        raise ValueError(
            f"{_where(part)}: {len(lacking)} labels of cases lack a seed of their method, as {name} has "
            f"{case} {format_label(label)} not with seed {seeds}. Score every case with all seeds, or leave "
            "the others out."
        )
    numbers = names["seed"].nunique()
    if numbers.nunique() > 1:
        raise ValueError(
            f"{_where(part)}: different numbers of seeds: {_by_method(numbers.map(str))}. Expected as many "
            "of each method, for means over more of them are steadier. Leave seeds out, or train the others."
        )


def _check_one_protocol(part: pd.DataFrame) -> None:
    if part["protocol"].nunique() > 1:
        used = part.drop_duplicates(["name", "protocol"]).groupby("name", sort=False)["protocol"]
        stated = (f"{name}: {' and '.join(p or 'not stated' for p in each)}" for name, each in used)
        raise ValueError(
            f"{_where(part)}: scored by different protocols: {join_names(stated, separator='; ')}. "
            "Score all methods by one."
        )


def _check_same_entries(part: pd.DataFrame, what: str, column: pd.Series, fix: str) -> None:
    """Raise ValueError unless every method has the same set of entries in `column`."""
    sets = {name: set(entries) for name, entries in column.groupby(part["name"], sort=False)}
    everything = set().union(*sets.values())
    lacking = {name: sorted(everything - own) for name, own in sets.items() if own != everything}
    if lacking:
        texts = [f"{name} lacks {join_names(entries)}" for name, entries in lacking.items()]
        raise ValueError(f"{_where(part)}: different {what}: {'; '.join(texts)}. {fix}")


def _check_agreement(part: pd.DataFrame, key: list[str], column: str, fix: str) -> None:
    """Raise ValueError unless every `key` has one value in `column` for all methods."""
    differing = part[part.groupby(key)[column].transform("nunique") > 1]
    if not differing.empty:
        texts = []
        for (case, *label), rows in differing.groupby(key):
            each = rows.drop_duplicates(["name", column])
            values = ", ".join(f"{v} in {name}" for name, v in zip(each["name"], each[column], strict=True))
            texts.append(f"{' '.join([case, *map(format_label, label)])} ({values})")
        raise ValueError(
            f"{_where(part)}: {column} differs by method: {join_names(texts, separator='; ')}. {fix}"
        )


def _check_finite(part: pd.DataFrame) -> None:
    infinite = part[np.isinf(part["value"])]
    if not infinite.empty:
        raise ValueError(
            f"{_where(part)}: infinite values have no mean: {_rows(infinite)}. Score again with the image's "
            "diagonal as the distance of missed labels."
        )


def find_warnings(part: pd.DataFrame, group: str | None) -> list[str]:
    """Return sentences on what allows a comparison, but should be known."""
    by_name = part.assign(program=part["backend"] + " " + part["version"]).groupby("name", sort=False)
    programs = by_name["program"].unique().map(join_names)
    folds = by_name["fold"].unique()
    trained_on = [name for name, seen in folds.items() if "all" in seen]
    unknown = [name for name, seen in folds.items() if "" in seen]
    lengths = by_name["method"].first().map(lambda method: training_length(method) or "its own")
    is_tested = group is None and len(programs) > 1  # without a second method nothing is
    similar = find_similar_cases(sorted(set(part["case"]))) if is_tested else None
    found = {
        f"the values come from different programs: {_by_method(programs)}": programs.nunique() > 1,
        f"fold all: {join_names(trained_on)} trained on the cases that they are scored on": trained_on,
        f"the folds of {join_names(unknown)} are not known": unknown and len(unknown) < len(folds),
        f"trained for different lengths: {_by_method(lengths)}": lengths.nunique() > 1,
        f"{' and '.join(similar or ())} look like one patient; without --group, p-values and intervals of "
        "such cases are too small": similar,
    }
    return [text for text, applies in found.items() if applies]


def find_similar_cases(cases: Sequence[str]) -> tuple[str, str] | None:
    """Return two cases whose names differ in their last part, if most cases are in small groups like this."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(re.sub(r"[_-][^_-]*$", "", case), []).append(case)
    several = [names for names in groups.values() if len(names) > 1]
    many = 2 * sum(map(len, several)) > len(cases) and len(groups) > max(1, len(cases) / 10)
    return (several[0][0], several[0][1]) if many else None


def format_label(label: tuple[str, str]) -> str:
    """Return "label 1 (liver)", or "label 1" without a name."""
    number, name = label
    return f"label {number} ({name})" if name else f"label {number}"


def _by_method(texts: pd.Series) -> str:
    return join_names((f"{name}: {text}" for name, text in texts.items()), separator="; ")


def _rows(part: pd.DataFrame) -> str:
    texts = part["name"] + " " + part["case"] + " " + part["label"].map(format_label)
    return join_names(texts.unique())


def _where(part: pd.DataFrame) -> str:
    return f"{part['dataset'].iloc[0] or 'The tables'}, {part['metric'].iloc[0]}"
