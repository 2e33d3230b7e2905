"""Checks of the folds in nnU-Net's splits_final.json: what is trained is what the file says."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.splits import read_splits

N_FOLDS = 5  # of the cross-validation that nnU-Net makes where there is no file


def check_fold(fold: int | str, splits_file: Path) -> None:
    """Raise ValueError for a fold that the file, or else nnU-Net's cross-validation, does not have."""
    if fold == "all":
        return
    exists = splits_file.is_file()
    n_folds = len(read_splits(splits_file)) if exists else N_FOLDS
    if fold not in range(n_folds):
        has = f"folds 0 to {n_folds - 1}" if n_folds > 1 else "fold 0 alone" if n_folds else "no folds"
        owner = splits_file if exists else f"nnU-Net's cross-validation ({splits_file} is not there yet)"
        dataset = shlex.quote(splits_file.parent.name)
        raise ValueError(
            f"Fold {fold!r} was asked for, and {owner} has {has}. Train one of these, or all; or make "
            f"another split: nnunet-mamba plans split {dataset} --name 5fold (or a paper's)."
        )


def check_fold_not_empty(train: Sequence[str], validate: Sequence[str], owner: str) -> None:
    """Raise ValueError for a fold without training or validation cases."""
    for side, cases in {"training": train, "validation": validate}.items():
        if len(cases) == 0:
            raise ValueError(f"There are no {side} cases in {owner}: give it some, or train another fold.")


def check_preprocessed(cases: Collection[str], preprocessed: Collection[str], folder: str) -> None:
    """Raise ValueError for cases that are not among the preprocessed ones in `folder`."""
    if missing := sorted(set(cases) - set(preprocessed)):
        raise ValueError(
            f"{len(missing)} cases of the split are not in {folder}: {join_names(missing, 3)}. "
            "Preprocess them (nnUNetv2_preprocess), or make the split anew: nnunet-mamba plans split."
        )


def find_smallest(cases: Sequence[str], folder: Path, n: int) -> list[str]:
    """Return the `n` cases whose preprocessed files in `folder` are the smallest, the smallest first."""

    def size(case: str) -> int:
        return sum(file.stat().st_size for file in folder.glob(f"{case}.*"))

    return sorted(cases, key=lambda case: (size(case), case))[:n]
