"""Folds of nnU-Net's splits_final.json, taken at their word."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import join_names

N_FOLDS = 5  # of the cross-validation that nnU-Net makes where there is no file


def check_fold(fold: int | str, splits_file: Path) -> None:
    """Raise ValueError for a fold that the file, or else nnU-Net's cross-validation, does not have."""
    if fold == "all":
        return
    is_there = splits_file.is_file()
    n_folds = _count_folds(splits_file) if is_there else N_FOLDS
    if fold not in range(n_folds):
        has = f"folds 0 to {n_folds - 1}" if n_folds > 1 else "fold 0 alone" if n_folds else "no folds"
        owner = splits_file if is_there else f"nnU-Net's cross-validation ({splits_file} is not there yet)"
        raise ValueError(
            f"Fold {fold!r} was asked for, and {owner} has {has}. Train one of these, or all; or make "
            f"another split: nnunet-mamba plans split {splits_file.parent.name} --name 5fold (or a paper's)."
        )


def _count_folds(splits_file: Path) -> int:
    """ValueError for a file that is no split."""
    try:
        splits = json.loads(splits_file.read_text(encoding="utf-8"))
    except ValueError:
        splits = None
    sides = (
        [fold.get(side) for fold in splits for side in ("train", "val")] if _is_list_of(dict, splits) else [0]
    )
    if not all(_is_list_of(str, side) for side in sides):
        raise ValueError(
            f'{splits_file} is no split of nnU-Net; expected [{{"train": [CASE, ...], "val": [CASE, ...]}}, '
            f"...]. Make it anew: nnunet-mamba plans split {splits_file.parent.name} --name 5fold."
        )
    return len(splits)


def _is_list_of(kind: type, items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, kind) for item in items)


def check_cases(train: Sequence[str], validate: Sequence[str], owner: str) -> None:
    """Raise ValueError for a fold without cases on one side."""
    for side, cases in {"training": train, "validation": validate}.items():
        if len(cases) == 0:
            raise ValueError(f"There are no {side} cases in {owner}: give it some, or train another fold.")


def check_presence(cases: Collection[str], there: Collection[str], folder: str) -> None:
    """Raise ValueError for cases that are not among the preprocessed ones."""
    if missing := sorted(set(cases) - set(there)):
        raise ValueError(
            f"{len(missing)} cases of the split are not in {folder}: {join_names(missing, 3)}. Preprocess them "
            "(nnUNetv2_preprocess), or make the split anew: nnunet-mamba plans split."
        )


def smallest(cases: Sequence[str], folder: Path, n: int) -> list[str]:
    """Return the `n` cases whose preprocessed files in `folder` are the smallest, the smallest first."""

    def size(case: str) -> int:
        return sum(file.stat().st_size for file in folder.glob(f"{case}.*"))

    return sorted(cases, key=lambda case: (size(case), case))[:n]
