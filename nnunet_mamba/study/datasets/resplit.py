"""New splits for datasets that are nnU-Net's already, and the check of a split from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.images import get_spacing_file, is_tiff
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.splits import SPLITS
from nnunet_mamba.study.datasets.convert import describe_dataset
from nnunet_mamba.study.datasets.readers import read_nnunet_raw
from nnunet_mamba.study.datasets.source import (
    Case,
    InvalidDatasetError,
    Notes,
    Source,
    find_count_issues,
    is_filled,
    read_description,
)
from nnunet_mamba.study.datasets.splits import (
    GroupFn,
    LeakError,
    Split,
    build_group_fn,
    find_leaks,
    make_split,
)


def read_unsplit_dataset(folder: Path) -> Source:
    """Read the dataset in `folder` as before any split: cases that a split moved to the test set count as
    labelled."""
    description = read_description(folder)
    _finish_moves(folder, Notes.from_json(description).moved, description.get("file_ending", ""))
    source = read_nnunet_raw(folder, description)
    cases = tuple(replace(case, role=_get_role(case, source.notes)) for case in source.cases)
    labelled = [replace(case, role="train") for case in cases if case.role != "test"]
    issues = [*source.issues, *find_count_issues(labelled, description, folder)]
    if issues:
        raise InvalidDatasetError(issues)
    return replace(source, cases=cases)


def _get_role(case: Case, notes: Notes) -> str:
    """Return the role of a case before an earlier split moved it."""
    if case.role == "test" and (case.name not in notes.moved or not case.labels):
        return "test"
    return "val" if case.name in notes.validation else "train"


def _finish_moves(folder: Path, moved: Iterable[str], ending: str) -> None:
    """Move the rest of each case whose move to the test set was interrupted."""
    for name in moved:
        here, there = (
            [
                *folder.glob(f"images{part}/{name}_????{ending}"),
                *folder.glob(f"labels{part}/{name}{ending}"),
                *folder.glob(f"*{part}/{name}.json"),  # with the spacing of a TIFF file
            ]
            for part in ("Tr", "Ts")
        )
        if here and there:
            for file in here:
                _move(file, folder / f"{file.parent.name[:-2]}Ts" / file.name)


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    file.replace(target)


def resplit_dataset(
    folder: Path,
    source: Source,
    name: str,
    *,
    preprocessed: Path,
    allow_leaks: bool = False,
    partial: bool = False,
) -> Split:
    """Give the raw dataset `folder` the split `name`; its test cases move to imagesTs and labelsTs.

    Args:
        source: the result of `read_unsplit_dataset`, perhaps with corrected notes.
        preprocessed: the dataset's preprocessed folder; if it exists, its splits_final.json is replaced too.
        allow_leaks: write the split even if it leaks.
        partial: as in `make_split`.

    Raises LeakError, and ValueError if cases would have to move after nnU-Net has looked at them.
    """
    group = build_group_fn(source.notes.group)
    split = make_split(name, source, group, source.notes.release, partial=partial)
    found = find_leaks(split, group)
    if found and not allow_leaks:
        raise LeakError(f"The split {name}", found)
    moves = _plan_moves(source, split, folder)
    planned = (preprocessed / "dataset_fingerprint.json").exists()
    if moves and planned:
        raise ValueError(
            f"{len(moves)} files would change sides, but {preprocessed} was made of the present training "
            "cases. Remove that folder, split, then plan and preprocess anew."
        )
    _write_split(folder, source, split, moves)
    if planned:
        write_json(preprocessed / SPLITS, split.to_json())
    return split


def _plan_moves(source: Source, split: Split, folder: Path) -> list[tuple[Path, Path]]:
    """Return the files that the split puts elsewhere, with their new paths."""
    test = set(split.test)
    moves = []
    for case in source.cases:
        part = "Ts" if case.role == "test" or case.name in test else "Tr"
        for file in (*case.files, *_list_spacing_files(case)):
            target = folder / f"{file.parent.name[:-2]}{part}" / file.name
            if target != file:
                moves.append((file, target))
    return moves


def _list_spacing_files(case: Case) -> set[Path]:
    """Return the files with the spacing of volumes in TIFF files; without them nnU-Net assumes 1 mm."""
    tiffs = [file for file in case.files if is_tiff(file)]
    beside = {get_spacing_file(file, is_image=file in case.images) for file in tiffs}
    return {file for file in beside if file.is_file()}


def _write_split(folder: Path, source: Source, split: Split, moves: Iterable[tuple[Path, Path]]) -> None:
    """Write the split and move the files.

    Cases are noted before they move, so that an interrupted command can be repeated.
    """
    _write_description(folder, source, split, moved=sorted({*source.notes.moved, *split.test}))
    for file, target in moves:
        _move(file, target)
    for emptied in (folder / "imagesTs", folder / "labelsTs"):
        if emptied.is_dir() and not is_filled(emptied):
            emptied.rmdir()
    write_json(folder / SPLITS, split.to_json())
    _write_description(folder, source, split, moved=split.test)


def _write_description(folder: Path, source: Source, split: Split, moved: Sequence[str]) -> None:
    """Write dataset.json with `moved` in its notes."""
    noted = replace(source, notes=replace(source.notes, moved=tuple(moved)))
    n_training = len(source.labelled_names()) - len(split.test)
    write_json(folder / "dataset.json", describe_dataset(noted, n_training))


def find_split_problems(split: Split, names: Iterable[str], test: Iterable[str], group: GroupFn) -> list[str]:
    """Return problems of a split over the labelled cases `names`, in words.

    Problems are leaks between training and validation, cases that do not exist or are test cases, and cases
    that are in no fold.
    """
    found = find_leaks(replace(split, test=tuple(test)), group)
    known = set(names)
    for k, fold in enumerate(split.folds):
        lost = set(fold.train + fold.val) - known
        if lost:
            found.append(f"fold {k}: cases that are not in imagesTr: {join_names(sorted(lost))}")
    unused = known - {name for fold in split.folds for name in fold.train + fold.val}
    if unused:
        found.append(f"in no fold at all: {join_names(sorted(unused))}")
    return found
