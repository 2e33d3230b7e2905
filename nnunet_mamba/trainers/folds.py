"""Who trains and who validates: nnU-Net's splits_final.json, taken at its word."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunet_mamba.finite import shortened

N_FOLDS = 5  # of the cross-validation that nnU-Net makes where there is no file


def check_fold(fold: int | str, splits_file: Path) -> None:
    """Raise ValueError for a fold that the file, or else nnU-Net's cross-validation, does not have."""
    if fold == "all":
        return
    is_there = splits_file.is_file()
    n_folds = len(json.loads(splits_file.read_text())) if is_there else N_FOLDS
    if fold not in range(n_folds):
        has = f"folds 0 to {n_folds - 1}" if n_folds > 1 else "fold 0 alone" if n_folds else "no folds"
        owner = splits_file if is_there else f"nnU-Net's cross-validation ({splits_file} is not there yet)"
        raise ValueError(
            f"Fold {fold} was asked for, and {owner} has {has}. Train one of these, or all; or make another "
            f"split: nnunet-mamba plans split {splits_file.parent.name} --name 5fold (or 7:3, or a paper's)."
        )


def check_cases(train: Sequence[str], validate: Sequence[str], owner: str) -> None:
    """Raise ValueError for a fold without cases on one side, or with a case on both."""
    for side, cases in {"training": train, "validation": validate}.items():
        if len(cases) == 0:
            raise ValueError(f"There are no {side} cases in {owner}: give it some, or train another fold.")
    if both := sorted(set(train) & set(validate)):
        raise ValueError(
            f"{len(both)} cases are on both sides of {owner}, so that its validation would be of no worth: "
            f"{shortened(both)}. Take them out of one; nnunet-mamba plans split --check finds all leaks."
        )


def check_presence(cases: Collection[str], there: Collection[str], folder: str) -> None:
    """Raise ValueError for cases that are not among the preprocessed ones."""
    if missing := sorted(set(cases) - set(there)):
        raise ValueError(
            f"{len(missing)} cases of the split are not in {folder}: {shortened(missing)}. Preprocess them "
            "(nnUNetv2_preprocess), or make the split anew: nnunet-mamba plans split."
        )
