"""Folds of a dataset, from splits_final.json or as nnU-Net draws them by default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.nnunet.splits import read_splits


@dataclass(frozen=True)
class ValidationFolds:
    """Number of folds, and its source; their validation cases if that is a file."""

    source: str
    n_folds: int
    cases: tuple[tuple[str, ...], ...] | None = None

    @property
    def names(self) -> list[str]:
        return [str(k) for k in range(self.n_folds)]

    def has(self, fold: str) -> bool:
        return fold in ("all", *self.names)

    def describe_unknown(self, folder: Path, folds: Iterable[str]) -> str:
        """Return a sentence on a folder of folds that the split does not have."""
        named = ", ".join(f"fold_{fold}" for fold in folds)
        until = f"ends with fold_{self.n_folds - 1} and has" if self.n_folds else "has"
        return (
            f"{folder} is left out: {self.source} {until} no {named}. It was trained by another split, or by "
            "a random 80:20, which nnU-Net draws over the cases for such a fold, whatever their patients. "
            "Train a fold that the split has, or restore its split."
        )


DEFAULT_SPLITS = ValidationFolds("nnU-Net's own split (no splits_final.json was found)", 5)


def read_validation_folds(file: Path) -> ValidationFolds:
    """Return the folds of a splits_final.json. ValueError if the file is not one."""
    cases = tuple(fold.val for fold in read_splits(file))
    return ValidationFolds(str(file), len(cases), cases)
