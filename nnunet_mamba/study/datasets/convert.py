"""Conversion of a `Source` to an nnU-Net raw dataset, case by case: checked, resumable, complete or absent.

The dataset is written to a hidden folder beside its place and renamed at the very end. If a conversion is
interrupted or refused, its files stay there, and the next attempt continues from them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.cpu import count_usable_cpus
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.paths import FOLDERS
from nnunet_mamba.nnunet.splits import Fold
from nnunet_mamba.study.datasets.archives import check_free_space
from nnunet_mamba.study.datasets.case_io import ConversionTask, build_file_names, convert_case
from nnunet_mamba.study.datasets.source import (
    NO_NOTES,
    Case,
    CaseProgressFn,
    InvalidDatasetError,
    Issue,
    Source,
)
from nnunet_mamba.study.datasets.splits import GroupFn, Split, build_group_fn, draw_folds

PARTS = ("Tr", "Ts")  # training and validation, test
ISSUES_FILE = "faults.txt"


@dataclass(frozen=True)
class Conversion:
    """Dataset that was written, and the issues that were accepted or whose cases were left out."""

    folder: Path
    source: Source
    split: Split
    issues: tuple[Issue, ...]


def convert_dataset(
    source: Source,
    folder: Path,
    split: Split,
    *,
    link: bool = False,
    accept: Iterable[str] = (),
    leave_out: bool = False,
    resize: tuple[int, int] | None = None,
    workspace: Path | None = None,
    workers: int | None = None,
    progress: CaseProgressFn | None = None,
) -> Conversion:
    """Check every file of `source` and write it as the nnU-Net raw dataset `folder`.

    Args:
        split: its test cases, and all that are unlabelled, go to imagesTs, the others to imagesTr.
        link: link files that nnU-Net can read unchanged; copy them where links are impossible.
        accept: kinds of issues (`ACCEPTABLE`) with which a case is converted all the same.
        leave_out: continue without the cases that have other issues.
        resize: (y, x) of pictures.
        workspace: folder of temporary files, which are hard-linked instead of copied.
        workers: threads; None: as many as processors, 8 at most.
        progress: called with (cases done, cases in all).

    Raises InvalidDatasetError, and ValueError if the dataset exists already or the disk is too full.
    """
    check_target(folder)
    task = ConversionTask(source, link, frozenset(accept), resize, workspace)
    cases = select_complete_cases(source, task.accepted)
    draft = Draft(folder, task, split)
    copied = [case for case in cases if not (link or draft.has_converted(case))]
    needed = [file for case in copied for file in case.files if not task.is_temporary(file)]
    check_free_space(
        folder.parent, sum(file.stat().st_size for file in needed), "make room, or use --symlink"
    )
    issues = [*source.issues, *_convert_all(cases, draft, workers or min(count_usable_cpus(), 8), progress)]
    forbidden = [issue for issue in issues if issue.kind not in task.accepted]
    lost = {issue.case for issue in forbidden}
    kept = replace(source, cases=tuple(case for case in cases if case.name not in lost))
    if forbidden and not (leave_out and kept.labelled_names()):
        raise InvalidDatasetError(forbidden, draft.write_issues(forbidden))
    split = remove_cases(split, lost, build_group_fn(source.notes.group))
    validation = tuple(case.name for case in kept.cases if case.role == "val")
    kept = replace(kept, notes=replace(kept.notes, moved=split.test, validation=validation))
    draft.finish(kept, split)
    return Conversion(folder, kept, split, tuple(issues))


def select_complete_cases(source: Source, accepted: frozenset[str]) -> tuple[Case, ...]:
    """Return the cases without an issue of a kind that is not accepted."""
    wrong = {issue.case for issue in source.issues if issue.kind not in accepted}
    return tuple(case for case in source.cases if case.name not in wrong)


def remove_cases(split: Split, lost: set[str | None], group: GroupFn) -> Split:
    """Return the split without the `lost` cases: several folds are drawn again, a single one keeps its sides.

    ValueError if training or validation is empty then.
    """
    if not lost:
        return split

    def keep(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in lost)

    folds = tuple(Fold(keep(fold.train), keep(fold.val)) for fold in split.folds)
    if len(folds) > 1:
        folds = draw_folds(sorted({name for fold in folds for name in fold.train + fold.val}), group)
    if not all(fold.train and fold.val for fold in folds):
        raise ValueError("Without the cases that have faults, nothing is left to train or to validate on.")
    return Split(folds, keep(split.test))


def get_folder_suffix(case: Case, test: Container[str]) -> str:
    """Return the suffix of nnU-Net's folders for a case: Tr or Ts."""
    return "Ts" if case.role == "test" or case.name in test else "Tr"


def list_targets(case: Case, source: Source, test: Container[str]) -> list[str]:
    """Return the paths of a case's files, relative to the dataset."""
    part, (images, label) = get_folder_suffix(case, test), build_file_names(case, source)
    return [f"images{part}/{name}" for name in images] + ([f"labels{part}/{label}"] if case.labels else [])


def plan_files(source: Source, split: Split) -> Iterator[tuple[Path, str]]:
    """Yield each file of the release with the names of the files made from it."""
    for case in source.cases:
        targets = list_targets(case, source, split.test)
        images = targets[:-1] if case.labels else targets
        if len(images) == len(case.images):
            yield from zip(case.images, images, strict=True)
        else:
            yield case.images[0], ", ".join(images)
        for file in case.labels:
            yield file, targets[-1]


class Draft:
    """Folder of an incomplete dataset, with a record of the cases that are converted."""

    def __init__(self, target: Path, task: ConversionTask, split: Split) -> None:
        self.target, self.task, self.test = target, task, frozenset(split.test)
        self.folder = target.with_name(f".{target.name}.partial")
        for part in PARTS:
            for kind in ("images", "labels"):
                (self.folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
        self.record = self.folder / "done.jsonl"
        self.done = self._read_record()
        self.lock = Lock()

    def has_converted(self, case: Case) -> bool:
        """Return whether an earlier attempt has converted `case` from the same files, with all its output."""
        outputs = (self.folder / target for target in list_targets(case, self.task.source, self.test))
        signature, issues = self.done.get(case.name, ("", []))
        unchanged = signature == self._compute_signature(case) and self._is_accepted(issues)
        return unchanged and all(map(Path.exists, outputs))

    def convert(self, case: Case) -> list[Issue]:
        """Convert a case unless an earlier attempt has, and return its issues."""
        signature = self._compute_signature(case)  # before the files are read: they may change meanwhile
        if self.has_converted(case):
            return self.done[case.name][1]
        issues = convert_case(case, self.task, self.folder, get_folder_suffix(case, self.test))
        if self._is_accepted(issues):
            accepted = [[issue.kind, issue.message] for issue in issues]
            with self.lock, self.record.open("a", encoding="utf-8") as record:
                record.write(json.dumps([case.name, signature, accepted]) + "\n")
        return issues

    def _is_accepted(self, issues: Iterable[Issue]) -> bool:
        return all(issue.kind in self.task.accepted for issue in issues)

    def finish(self, source: Source, split: Split) -> None:
        """Write the description and split, remove files that do not belong, and rename the folder."""
        expected = {name for case in source.cases for name in list_targets(case, source, self.test)}
        found = {file.relative_to(self.folder).as_posix() for file in self.folder.glob("*T[rs]/*")}
        if expected - found:
            lost = join_names(sorted(expected - found))
            raise ValueError(f"{self.folder} has lost {lost}; run the command again.")
        for name in found - expected:
            (self.folder / name).unlink()
        for folder in self.folder.glob("*Ts"):
            if not any(folder.iterdir()):
                folder.rmdir()
        n_training = sum(path.startswith("labelsTr/") for path in expected)
        write_json(self.folder / "dataset.json", describe_dataset(source, n_training))
        write_json(self.folder / "splits_final.json", split.to_json())
        for file in (self.record, self.folder / ISSUES_FILE):
            file.unlink(missing_ok=True)
        self.folder.rename(self.target)

    def _compute_signature(self, case: Case) -> str:
        """Return a text that changes with the case's files and with the options of the conversion."""
        states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in case.files]
        task = self.task
        values = (task.source.pixels.recode, sorted(task.source.label_values))
        return repr(
            (get_folder_suffix(case, self.test), task.link, task.resize, task.reader, *values, states)
        )

    def write_issues(self, issues: Iterable[Issue]) -> Path:
        """Write all issues to a file of the folder, and return its path."""
        file = self.folder / ISSUES_FILE
        file.write_text("".join(f"{issue}\n" for issue in issues), encoding="utf-8")
        return file

    def _read_record(self) -> dict[str, tuple[str, list[Issue]]]:
        """Return the signature and the accepted issues of each converted case."""
        done = {}
        for line in self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []:
            try:
                name, signature, accepted = json.loads(line)
            except ValueError:  # the last line of an interrupted run
                continue
            done[name] = signature, [Issue(kind, name, message) for kind, message in accepted]
        return done


def _convert_all(
    cases: Sequence[Case], draft: Draft, workers: int, progress: CaseProgressFn | None
) -> list[Issue]:
    """Convert the cases in threads, and return their issues in the order of the cases."""
    issues: dict[str, list[Issue]] = {}
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(draft.convert, case): case for case in cases}
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                issues[waiting[future].name] = future.result()
                if progress:
                    progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [issue for case in cases for issue in issues[case.name]]


def describe_dataset(source: Source, n_training: int) -> dict[str, Any]:
    """Return the contents of nnU-Net's dataset.json."""
    return {
        "channel_names": dict(source.channel_names),
        "labels": dict(source.labels),
        "numTraining": n_training,
        "file_ending": source.file_ending,
        **source.extra,
        **(source.notes.to_json() if source.notes != NO_NOTES else {}),
    }


def check_target(folder: Path) -> None:
    """Raise ValueError if the dataset exists, or another one with its number, by which nnU-Net finds it."""
    if folder.exists():
        raise ValueError(f"{folder} exists already; remove it, or choose another number with --dataset-id.")
    others = [Path(os.environ[name]) for name in FOLDERS[1:] if os.environ.get(name)]
    for root in (folder.parent, *others):
        for other in sorted(root.glob(f"{folder.name[: len('Dataset###')]}_*")):
            if other.name != folder.name:
                raise ValueError(f"{other} has this number already; choose another one with --dataset-id.")


def find_numbered(raw: Path, number: int | None) -> Path | None:
    """Return the dataset with this number, whatever it was made of; None without one."""
    found = raw.glob(f"Dataset{number:03d}_*/dataset.json") if number is not None else iter(())
    return next((file.parent for file in found), None)


def replace_number(name: str, number: int) -> str:
    """Return Dataset###_Name with another number (1 to 999)."""
    if not 0 < number < 1000:
        raise ValueError(f"A dataset's number has three digits, 1 to 999; got {number}.")
    return re.sub(r"^Dataset\d{3}", f"Dataset{number:03d}", name)
