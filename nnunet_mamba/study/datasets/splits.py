"""Splits of a data set in training, validation and test: published ones, and nnU-Net's own by patients.

A group is a set of cases that must stay together: the images of one patient, the frames of one video. The
pattern of a data set finds it in a case's name; without one, each case is its own group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mamba.io.messages import describe_regex, format_unknown_name, join_names
from nnunet_mamba.nnunet.splits import Fold
from nnunet_mamba.study.datasets.source import Case, Source, is_same_word

PUBLISHED = Path(__file__).with_name("published_splits.json")
SEED = 12345  # nnU-Net's, of its cross-validation
N_FOLDS = 5
FEWEST_TRAINING = 3  # cases that must remain after the unseen and the validation cases are taken
FOLDS, OFFICIAL = "5fold", "official"
RATIO = re.compile(r"[1-9]\d*(:[1-9]\d*){1,2}")
GroupFn = Callable[[str], str]


@dataclass(frozen=True)
class Split:
    """Names of cases. `test` cases appear in no fold."""

    folds: tuple[Fold, ...]
    test: tuple[str, ...] = ()

    def to_json(self) -> list[dict[str, list[str]]]:
        """Return the contents of nnU-Net's splits_final.json."""
        return [{"train": list(fold.train), "val": list(fold.val)} for fold in self.folds]


@dataclass(frozen=True)
class PublishedSplit:
    """Split of a paper, in cases or in groups (patients); `val` empty: five folds over `train`.

    split_by_image  the paper's folds were drawn over images, not patients
    """

    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]
    source: str
    split_by_image: bool = False
    aliases: tuple[str, ...] = ()


class LeakError(ValueError):
    """Error for a split that puts images of one patient on both sides."""

    def __init__(self, name: str, leaks: Sequence[str]) -> None:
        """Make the message for the split `name` from the result of `find_leaks`."""
        fix = "Use folds by patients; to reproduce the paper: nnunet-mamba plans split --allow-leaks."
        super().__init__("\n  ".join([f"{name} leaks:", *leaks, fix]))


def build_group_fn(pattern: str | None) -> GroupFn:
    """Return a function from a case's name to its group; it raises ValueError for names without a match."""
    if pattern is None:
        return lambda name: name

    def group(name: str) -> str:
        match = re.match(pattern, name)
        if match is None:
            raise ValueError(
                f"The case name {name!r} does not begin with a patient of this dataset, "
                f"{describe_regex(pattern)}; rename it, or give another pattern."
            )
        return match[0]

    return group


def make_split(
    name: str, source: Source, group: GroupFn, dataset: str | None = None, *, partial: bool = False
) -> Split:
    """Make the split `name` of the labelled cases of `source`.

    Args:
        name: "5fold"; "official"; a ratio such as "7:3" or "70:10:20" (training, validation, test; drawn by
            groups); or a split that was published for `dataset`.
        partial: allow a published split to name missing cases, and train on cases that it does not name.

    ValueError for unknown names, and unless the cases are those of a published split; cases with issues may
    be missing.
    """
    paper = find_split(name, dataset)
    names = sorted(set(source.labelled_names()))
    if paper is not None:
        faulty = {issue.case for issue in source.issues if issue.case}
        return _apply_published_split(paper, names, faulty, group, partial=partial)
    if name == FOLDS:
        return Split(draw_folds(names, group))
    if name == OFFICIAL:
        return _build_official_split(source.cases)
    return _split_by_ratio(names, group, [int(part) for part in name.split(":")])


def find_split(name: str, dataset: str | None) -> PublishedSplit | None:
    """Return the published split `name`, None for a name that every data set has. ValueError for others."""
    if name in (FOLDS, OFFICIAL) or RATIO.fullmatch(name):
        return None
    known = get_published_splits(dataset)
    for word, split in known.items():
        if any(is_same_word(name, other) for other in (word, *split.aliases)):
            return split
    choice = [FOLDS, OFFICIAL, "A:B", "A:B:C", *known]
    raise ValueError(format_unknown_name(f"split of {dataset or 'this dataset'}", name, choice))


@lru_cache
def _read_published_splits() -> dict[str, dict[str, PublishedSplit]]:
    table = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return {
        dataset: {name: _parse_published_split(entry) for name, entry in entries.items()}
        for dataset, entries in table.items()
    }


def _parse_published_split(entry: Mapping[str, Any]) -> PublishedSplit:
    """Return the split of an entry, whose numbers become names by its format, such as "patient{:03d}"."""
    train, val, test = (
        frozenset(entry["name"].format(n) for n in entry.get(part, ())) for part in ("train", "val", "test")
    )
    return PublishedSplit(
        train, val, test, entry["source"], entry.get("split_by_image", False), tuple(entry.get("aliases", ()))
    )


def get_published_splits(dataset: str | None) -> dict[str, PublishedSplit]:
    """Return the published splits of a dataset by name."""
    return _read_published_splits().get(dataset or "", {})


def draw_folds(names: Sequence[str], group: GroupFn, k: int = N_FOLDS) -> tuple[Fold, ...]:
    """Draw folds over sorted groups with nnU-Net's seed; they are nnU-Net's own if each case is a group."""
    from sklearn.model_selection import KFold

    groups = sorted({group(name) for name in names})
    if len(groups) < 2:
        raise ValueError(f"Folds need at least 2 patients to tell apart; there is {len(groups)}.")
    k = min(k, len(groups))
    folds = KFold(k, shuffle=True, random_state=SEED).split(groups)
    return tuple(_build_fold(names, group, {groups[i] for i in val}) for _, val in folds)


def _build_fold(names: Sequence[str], group: GroupFn, val: set[str]) -> Fold:
    return Fold(
        tuple(sorted(name for name in names if group(name) not in val)),
        tuple(sorted(name for name in names if group(name) in val)),
    )


def _build_official_split(cases: Sequence[Case]) -> Split:
    """Return the split whose only fold validates on the release's own validation cases."""
    by_role = {
        role: tuple(sorted(case.name for case in cases if case.role == role)) for role in ("train", "val")
    }
    if not all(by_role.values()):
        raise ValueError("This release has no training and validation part of its own; choose another split.")
    return Split((Fold(by_role["train"], by_role["val"]),))


def _split_by_ratio(names: Sequence[str], group: GroupFn, parts: Sequence[int]) -> Split:
    """Cut the groups at the ratio, in a random order that depends on the sorted names only."""
    groups = sorted({group(name) for name in names})
    shuffled = [str(g) for g in np.random.default_rng(SEED).permutation(groups)]
    cuts = [round(len(groups) * sum(parts[: i + 1]) / sum(parts)) for i in range(len(parts))]
    pieces = [set(shuffled[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
    if not all(pieces):
        raise ValueError(f"{len(groups)} patients cannot be divided {':'.join(map(str, parts))}.")
    test = pieces[2] if len(pieces) == 3 else set()
    rest = [name for name in names if group(name) not in test]
    return Split(
        (_build_fold(rest, group, pieces[1]),), tuple(sorted(name for name in names if group(name) in test))
    )


def _apply_published_split(
    split: PublishedSplit, names: Sequence[str], faulty: set[str], group: GroupFn, *, partial: bool
) -> Split:
    """Return a paper's split of these cases; see `make_split`."""
    members = split.train | split.val | split.test
    in_groups = not members & set(names)  # the paper lists patients, or patients are cases

    def key(name: str) -> str:
        return group(name) if in_groups else name

    present = {key(name) for name in names}
    for lost, problem in (
        (members - present - {key(name) for name in faulty}, "names cases that are not there"),
        (present - members, "does not name all cases"),
    ):
        if lost and not partial:
            raise ValueError(
                f"The split ({split.source}) {problem}, {len(lost)} in all: {join_names(sorted(lost))}. "
                "Complete the data, choose another split, or take it as far as it goes: --partial."
            )
    pool = [name for name in names if key(name) not in split.test]
    test = tuple(name for name in names if key(name) in split.test)
    if not split.val:
        return Split(draw_folds(pool, (lambda name: name) if split.split_by_image else group), test)
    fold = _build_fold(pool, key, set(split.val))
    if not (fold.train and fold.val):
        raise ValueError(f"Of the split ({split.source}), no case to train or none to validate on is there.")
    return Split((fold,), test)


def draw_split(names: Sequence[str], *, n_unseen: int, n_validation: int, seed: int) -> Split:
    """Draw one fold and unseen cases by chance; the choice depends on the sorted names and the seed only."""
    n_cases = len(names)
    most = n_cases - n_validation - FEWEST_TRAINING
    if not 1 <= n_unseen <= most:
        raise ValueError(
            f"{n_unseen} unseen cases were asked for; of {n_cases} labelled cases, {n_validation} are needed "
            f"for validation and {FEWEST_TRAINING} for training, so choose between 1 and {most}."
        )
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    unseen, rest = shuffled[:n_unseen], shuffled[n_unseen:]
    fold = Fold(tuple(sorted(rest[n_validation:])), tuple(sorted(rest[:n_validation])))
    return Split((fold,), tuple(sorted(unseen)))


def find_leaks(split: Split, group: GroupFn) -> list[str]:
    """Return a text for each leak: groups with images in training and in validation or test."""
    found = []
    test = {group(name) for name in split.test}
    for k, fold in enumerate(split.folds):
        train = {group(name) for name in fold.train}
        for part, names in (("validation", fold.val), ("test", split.test)):
            shared = [name for name in names if group(name) in train]
            if shared:
                patients = sorted({group(name) for name in shared})
                found.append(
                    f"fold {k}: {len(shared)} of {len(names)} {part} images have images of their patient in "
                    f"training: {', '.join(patients)}"
                )
        in_both = sorted(test & {group(name) for name in fold.val})
        if in_both:
            found.append(f"fold {k}: patients of the test set in validation: {', '.join(in_both)}")
    return found
