"""Who trains, who validates, who is never seen: published splits, and nnU-Net's own by patients.

A group is what must not be torn apart: the images of one patient, the frames of one video. The pattern of a
dataset tells it from a case's name; without one, each case is its own group.
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

from nnunet_mamba.io.messages import form_of, unknown
from nnunet_mamba.study.datasets.source import Case, Source, same_word, some

PUBLISHED = Path(__file__).with_name("published_splits.json")
SEED = 12345  # nnU-Net's, of its cross-validation
N_FOLDS = 5
FEWEST_TRAINING = 3  # cases that must remain after the unseen and the validation cases are taken
FOLDS, OFFICIAL = "5fold", "official"
RATIO = re.compile(r"[1-9]\d*(:[1-9]\d*){1,2}")
Group = Callable[[str], str]


@dataclass(frozen=True)
class Fold:
    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Names of cases. `test` cases appear in no fold."""

    folds: tuple[Fold, ...]
    test: tuple[str, ...] = ()

    def to_json(self) -> list[dict[str, list[str]]]:
        """nnU-Net's splits_final.json."""
        return [{"train": list(fold.train), "val": list(fold.val)} for fold in self.folds]


@dataclass(frozen=True)
class PublishedSplit:
    """A split of a paper, in cases or in groups (patients); `val` empty: five folds over `train`.

    torn  the paper's folds were drawn over images, not patients
    """

    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]
    source: str
    torn: bool = False
    aliases: tuple[str, ...] = ()


class LeakError(ValueError):
    """A split that puts images of one patient on both sides."""

    def __init__(self, what: str, found: Sequence[str]) -> None:
        remedy = "Use folds by patients; to reproduce the paper: nnunet-mamba plans split --allow-leaks."
        super().__init__("\n  ".join([f"{what} leaks:", *found, remedy]))


def group_by(pattern: str | None) -> Group:
    """A function from a case's name to its group. ValueError (when called) for names without a match."""
    if pattern is None:
        return lambda name: name

    def group(name: str) -> str:
        match = re.match(pattern, name)
        if match is None:
            raise ValueError(
                f"The case {name!r} does not begin as its dataset's patients are named, {form_of(pattern)}; "
                "rename it, or give another pattern."
            )
        return match[0]

    return group


def make_split(
    name: str, source: Source, group: Group, dataset: str | None = None, *, partial: bool = False
) -> Split:
    """The split `name` of the labelled cases of `source`.

    "5fold", "official", a ratio such as "7:3" or "70:10:20" (training, validation, test; drawn by groups), or
    one that was published for `dataset`.

    ValueError for unknown names, and for cases that a published split names and that are not there, or the
    reverse; cases with faults may be missing, and with `partial` any, and those it does not name are trained
    on.
    """
    paper = find_split(name, dataset)
    names = sorted(set(source.labelled()))
    if paper is not None:
        faulty = {fault.case for fault in source.faults if fault.case}
        return _as_published(paper, names, faulty, group, partial=partial)
    if name == FOLDS:
        return Split(k_folds(names, group))
    if name == OFFICIAL:
        return _official(source.cases)
    return _by_ratio(names, group, [int(part) for part in name.split(":")])


def find_split(name: str, dataset: str | None) -> PublishedSplit | None:
    """The published split of this name, None for those that every data set has. ValueError for others."""
    if name in (FOLDS, OFFICIAL) or RATIO.fullmatch(name):
        return None
    known = published(dataset)
    for word, split in known.items():
        if any(same_word(name, other) for other in (word, *split.aliases)):
            return split
    choice = [FOLDS, OFFICIAL, "A:B", "A:B:C", *known]
    raise ValueError(unknown(f"split of {dataset or 'this dataset'}", name, choice))


@lru_cache
def _all_published() -> dict[str, dict[str, PublishedSplit]]:
    table = json.loads(PUBLISHED.read_text())
    return {
        dataset: {name: _parse(entry) for name, entry in entries.items()}
        for dataset, entries in table.items()
    }


def _parse(entry: Mapping[str, Any]) -> PublishedSplit:
    """Numbers stand for names by the entry's `name`, such as "patient{:03d}"."""
    train, val, test = (
        frozenset(entry["name"].format(n) for n in entry.get(part, ())) for part in ("train", "val", "test")
    )
    return PublishedSplit(
        train, val, test, entry["source"], entry.get("torn", False), tuple(entry.get("aliases", ()))
    )


def published(dataset: str | None) -> dict[str, PublishedSplit]:
    """The published splits of a dataset by name."""
    return _all_published().get(dataset or "", {})


def k_folds(names: Sequence[str], group: Group, k: int = N_FOLDS) -> tuple[Fold, ...]:
    """Cross-validation with nnU-Net's seed over sorted groups; where each case is a group, nnU-Net's own."""
    from sklearn.model_selection import KFold

    groups = sorted({group(name) for name in names})
    if len(groups) < 2:
        raise ValueError(f"Folds need at least 2 patients to tell apart; there is {len(groups)}.")
    k = min(k, len(groups))
    folds = KFold(k, shuffle=True, random_state=SEED).split(groups)
    return tuple(_fold(names, group, {groups[i] for i in val}) for _, val in folds)


def _fold(names: Sequence[str], group: Group, val: set[str]) -> Fold:
    return Fold(
        tuple(sorted(name for name in names if group(name) not in val)),
        tuple(sorted(name for name in names if group(name) in val)),
    )


def _official(cases: Sequence[Case]) -> Split:
    """The release's own validation cases as the one fold."""
    by_role = {
        role: tuple(sorted(case.name for case in cases if case.role == role)) for role in ("train", "val")
    }
    if not all(by_role.values()):
        raise ValueError("This release has no training and validation part of its own; choose another split.")
    return Split((Fold(by_role["train"], by_role["val"]),))


def _by_ratio(names: Sequence[str], group: Group, parts: Sequence[int]) -> Split:
    """Groups in a random order that depends on the sorted names only, cut at the ratio."""
    groups = sorted({group(name) for name in names})
    shuffled = [str(g) for g in np.random.default_rng(SEED).permutation(groups)]
    cuts = [round(len(groups) * sum(parts[: i + 1]) / sum(parts)) for i in range(len(parts))]
    pieces = [set(shuffled[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
    if not all(pieces):
        raise ValueError(f"{len(groups)} patients cannot be divided {':'.join(map(str, parts))}.")
    test = pieces[2] if len(pieces) == 3 else set()
    rest = [name for name in names if group(name) not in test]
    return Split(
        (_fold(rest, group, pieces[1]),), tuple(sorted(name for name in names if group(name) in test))
    )


def _as_published(
    split: PublishedSplit, names: Sequence[str], faulty: set[str], group: Group, *, partial: bool
) -> Split:
    members = split.train | split.val | split.test
    in_groups = not members & set(names)  # the paper lists patients, or patients are cases

    def key(name: str) -> str:
        return group(name) if in_groups else name

    present = {key(name) for name in names}
    for lost, what in (
        (members - present - {key(name) for name in faulty}, "names cases that are not there"),
        (present - members, "does not name all cases"),
    ):
        if lost and not partial:
            raise ValueError(
                f"The split ({split.source}) {what}, {len(lost)} in all: {some(lost)}. Complete the data, "
                "choose another split, or take it as far as it goes: --partial."
            )
    pool = [name for name in names if key(name) not in split.test]
    test = tuple(name for name in names if key(name) in split.test)
    if not split.val:
        return Split(k_folds(pool, (lambda name: name) if split.torn else group), test)
    fold = _fold(pool, key, set(split.val))
    if not (fold.train and fold.val):
        raise ValueError(f"Of the split ({split.source}), no case to train or none to validate on is there.")
    return Split((fold,), test)


def draw_split(names: Sequence[str], *, n_unseen: int, n_validation: int, seed: int) -> Split:
    """One fold and unseen cases, a random choice that depends on the sorted names and the seed only."""
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


def leaks(split: Split, group: Group) -> list[str]:
    """What a network would see in training and be judged on, in words; empty if nothing leaks."""
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
