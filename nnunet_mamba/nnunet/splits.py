"""nnU-Net's splits_final.json: the cases that each fold trains and validates on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = "splits_final.json"


@dataclass(frozen=True)
class Fold:
    """Names of the cases to train and to validate on."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def read_splits(file: Path) -> tuple[Fold, ...]:
    """Return the folds of a splits_final.json. ValueError for other files."""
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        splits = None
    if not _is_split(splits):
        raise ValueError(
            f"{file} is not a split of nnU-Net; expected "
            '[{"train": [CASE, ...], "val": [CASE, ...]}, ...]. '
            "Make it anew: nnunet-mamba plans split DATASET --name 5fold."
        )
    return tuple(Fold(tuple(fold["train"]), tuple(fold["val"])) for fold in splits)


def find_splits(*folders: Path | None) -> Path | None:
    """Return the splits_final.json of the first of a dataset's folders that has one: nnU-Net trains by that
    of the preprocessed data, and the raw dataset may have its original."""
    files = [folder / SPLITS for folder in folders if folder]
    return next((file for file in files if file.is_file()), None)


def _is_split(content: Any) -> bool:
    return _is_list_of(dict, content) and all(
        _is_list_of(str, fold.get(side)) for fold in content for side in ("train", "val")
    )


def _is_list_of(kind: type, items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, kind) for item in items)
