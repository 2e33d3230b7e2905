"""Numbers of cases of a trained model's folds, for its card, and how far they are known. No name of a case.

splits_final.json may have been written anew since a training. What the trained folder itself holds comes
first: nnU-Net's log tells the numbers, the summary of the validation names the cases that were validated.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from pathlib import Path

from nnunet_mamba.nnunet.checkpoints import read_validated_cases
from nnunet_mamba.nnunet.logs import read_split_sizes
from nnunet_mamba.nnunet.splits import SPLITS, Fold, find_splits, read_splits

ALL = "every case trained on"
UNKNOWN = "not known, there was no log, no validation and no splits_final.json when it was exported"


def describe_splits(folder: Path, dataset: str, folds: Sequence[str], file_ending: str) -> dict[str, str]:
    """Return for each fold of a trained folder how many cases it was trained and validated on, in words.

    ValueError if the dataset's splits_final.json in nnU-Net's folders is no split.
    """
    places = [os.environ.get(variable) for variable in ("nnUNet_preprocessed", "nnUNet_raw")]
    file = find_splits(*(Path(place, dataset) for place in places if place))
    splits = dict(enumerate(read_splits(file))) if file else {}
    now = f"{SPLITS} of {_get_date(file)}" if file else ""
    words = {}
    for fold in folds:
        sizes = read_split_sizes(folder / f"fold_{fold}")
        validated = read_validated_cases(folder / f"fold_{fold}", file_ending)
        if fold == "all":
            words[fold] = ALL
        elif sizes:
            words[fold] = _describe_logged(sizes, validated)
        else:
            words[fold] = _describe_split(splits.get(int(fold)), now, validated)
    return words


def _describe_logged(sizes: Sequence[tuple[int, int]], validated: Collection[str] | None) -> str:
    """Describe a fold whose logs tell the sizes of its split, or of several."""
    if len(sizes) > 1:
        every = " or ".join(f"{n_train} and {n_val}" for n_train, n_val in sorted(sizes))
        return f"{every} cases trained on and validated: its logs tell of several splits"
    n_train, n_val = sizes[0]
    if validated is None:
        return f"{_count(n_train)} trained on, {n_val} to validate; the fold has no finished validation"
    n_validated = len(validated)
    if n_validated > n_val:
        return f"{_count(n_train)} trained on, {n_val} to validate; later {n_validated} by another split"
    return f"{_count(n_train)} trained on, {n_validated}{f' of {n_val}' * (n_validated < n_val)} validated"


def _describe_split(split: Fold | None, now: str, validated: Collection[str] | None) -> str:
    """Describe a fold without a log, by the split that there is now and the cases that were validated."""
    if split is None and validated is None:
        return UNKNOWN
    n_validated = _count(len(validated or ()))
    if split is None:
        return f"{n_validated} validated; the number trained on is not known, for lack of its {SPLITS}"
    n_train, n_val = _count(len(split.train)), len(split.val)
    if validated is None:
        planned = f"{n_train} to train on, {n_val} to validate by {now}"
        return f"{planned}; not checked, the fold has no finished validation"
    if set(validated) == set(split.val):
        return f"{n_train} trained on, {n_val} validated"
    if set(validated) < set(split.val):
        return f"{n_validated} validated, of {n_val} by {now}, which has {n_train} to train on"
    return (
        f"{n_validated} validated, others than those of {now}: the split has changed since the training, and "
        "the number trained on is not known"
    )


def _count(n: int) -> str:
    return f"{n} case{'s' * (n != 1)}"


def _get_date(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).date().isoformat()
