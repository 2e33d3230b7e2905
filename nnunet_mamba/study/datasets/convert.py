"""A `Source` becomes an nnU-Net raw dataset, case by case: checked, resumable, complete or absent.

The dataset grows in a hidden folder beside its place and takes its name at the very end. What an interrupted
or refused conversion has written stays there, and the next attempt goes on from it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.cpu import usable_cpus
from nnunet_mamba.nnunet.paths import FOLDERS
from nnunet_mamba.study.datasets.case_io import Job, convert_case, file_names
from nnunet_mamba.study.datasets.source import NO_NOTES, Case, Fault, InvalidDatasetError, Source, some
from nnunet_mamba.study.datasets.splits import Fold, Group, Split, group_by, k_folds

PARTS = {"Tr": "training and validation", "Ts": "test"}
FAULTS = "faults.txt"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """What was written, and the faults that were accepted or whose cases were left out."""

    folder: Path
    source: Source
    split: Split
    faults: tuple[Fault, ...]


def convert(
    source: Source,
    folder: Path,
    split: Split,
    *,
    link: bool = False,
    accept: Iterable[str] = (),
    leave_out: bool = False,
    resize: tuple[int, int] | None = None,
    scratch: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Check every file of `source` and lay it out as the nnU-Net raw dataset `folder`.

    Args:
        split: its test cases, and all that are unlabelled, go to imagesTs, the others to imagesTr.
        link: make links (copies where that cannot be) of files that nnU-Net can read as they are.
        accept: kinds of faults (`ACCEPTABLE`) with which a case is taken all the same.
        leave_out: go on without the cases that have other faults.
        resize: (y, x) of pictures.
        scratch: files below it will not be needed any more, so that they need not be copied.
        workers: threads; None: as many as processors, 8 at most.
        progress: called with (cases done, cases in all).

    Raises InvalidDatasetError, ValueError if the dataset is there already or there is no room.
    """
    check_place(folder)
    job = Job(source, link, frozenset(accept), resize, scratch)
    cases = whole_cases(source, job.accepted)
    draft = Draft(folder, job, split)
    copied = [case for case in cases if not (link or draft.holds(case))]
    _require_room(folder.parent, [file for case in copied for file in case.files if not job.is_ours(file)])
    faults = [*source.faults, *_convert_all(cases, draft, workers or default_workers(), progress)]
    forbidden = [fault for fault in faults if fault.kind not in job.accepted]
    lost = {fault.case for fault in forbidden}
    kept = replace(source, cases=tuple(case for case in cases if case.name not in lost))
    if forbidden and not (leave_out and kept.labelled()):
        raise InvalidDatasetError(forbidden, draft.list_faults(forbidden))
    split = without(split, lost, group_by(source.notes.group))
    validation = tuple(case.name for case in kept.cases if case.role == "val")
    kept = replace(kept, notes=replace(kept.notes, moved=split.test, validation=validation))
    draft.complete(kept, split)
    return Converted(folder, kept, split, tuple(faults))


def whole_cases(source: Source, accepted: frozenset[str]) -> tuple[Case, ...]:
    """Those whose files are all there, and only once."""
    wrong = {fault.case for fault in source.faults if fault.kind not in accepted}
    return tuple(case for case in source.cases if case.name not in wrong)


def without(split: Split, lost: set[str | None], group: Group) -> Split:
    """The split of the cases that are left: several folds are drawn again, one keeps its sides.

    ValueError if a side is empty then.
    """
    if not lost:
        return split

    def rest(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in lost)

    folds = tuple(Fold(rest(fold.train), rest(fold.val)) for fold in split.folds)
    if len(folds) > 1:
        folds = k_folds(sorted({name for fold in folds for name in fold.train + fold.val}), group)
    if not all(fold.train and fold.val for fold in folds):
        raise ValueError("Without the cases that have faults, nothing is left to train or to validate on.")
    return Split(folds, rest(split.test))


def default_workers() -> int:
    return min(usable_cpus(), 8)


def part_of(case: Case, test: Container[str]) -> str:
    return "Ts" if case.role == "test" or case.name in test else "Tr"


def targets(case: Case, source: Source, test: Container[str]) -> list[str]:
    """Where the files of a case go, relative to the dataset."""
    part, (images, label) = part_of(case, test), file_names(case, source)
    return [f"images{part}/{name}" for name in images] + ([f"labels{part}/{label}"] if case.labels else [])


def plan_files(source: Source, split: Split) -> Iterator[tuple[Path, str]]:
    """Each file of the release, and what will be made of it."""
    for case in source.cases:
        goals = targets(case, source, split.test)
        images = goals[:-1] if case.labels else goals
        if len(images) == len(case.images):
            yield from zip(case.images, images, strict=True)
        else:
            yield case.images[0], ", ".join(images)
        for file in case.labels:
            yield file, goals[-1]


class Draft:
    """The folder of a dataset that is not complete yet, and which of its cases are."""

    def __init__(self, target: Path, job: Job, split: Split) -> None:
        self.target, self.job, self.test = target, job, frozenset(split.test)
        self.folder = target.with_name(f".{target.name}.partial")
        for part in PARTS:
            for kind in ("images", "labels"):
                (self.folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
        self.record = self.folder / "done.jsonl"
        self.done = self._read_record()
        self.lock = Lock()

    def holds(self, case: Case) -> bool:
        """Whether an earlier attempt has converted it from the same files, and what it wrote is there."""
        made = (self.folder / target for target in targets(case, self.job.source, self.test))
        signature, faults = self.done.get(case.name, ("", []))
        return signature == self._signature(case) and self._accepts(faults) and all(map(Path.exists, made))

    def take(self, case: Case) -> list[Fault]:
        """Convert a case, unless an earlier attempt has."""
        signature = self._signature(case)  # before the files are read: they may change meanwhile
        if self.holds(case):
            return self.done[case.name][1]
        faults = convert_case(case, self.job, self.folder, part_of(case, self.test))
        if self._accepts(faults):
            accepted = [[fault.kind, fault.what] for fault in faults]
            with self.lock, self.record.open("a") as record:
                record.write(json.dumps([case.name, signature, accepted]) + "\n")
        return faults

    def _accepts(self, faults: Iterable[Fault]) -> bool:
        return all(fault.kind in self.job.accepted for fault in faults)

    def complete(self, source: Source, split: Split) -> None:
        """Describe the dataset, remove what does not belong to it, and give it its name."""
        expected = {name for case in source.cases for name in targets(case, source, self.test)}
        found = {file.relative_to(self.folder).as_posix() for file in self.folder.glob("*T[rs]/*")}
        if expected - found:
            raise ValueError(f"{self.folder} has lost {some(expected - found)}; run the command again.")
        for name in found - expected:
            (self.folder / name).unlink()
        for folder in self.folder.glob("*Ts"):
            if not any(folder.iterdir()):
                folder.rmdir()
        n_training = sum(path.startswith("labelsTr/") for path in expected)
        write_json(self.folder / "dataset.json", description(source, n_training))
        write_json(self.folder / "splits_final.json", split.to_json())
        for file in (self.record, self.folder / FAULTS):
            file.unlink(missing_ok=True)
        self.folder.rename(self.target)

    def _signature(self, case: Case) -> str:
        """Changes with the files, and with what is to become of them."""
        states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in case.files]
        job = self.job
        kept = (job.link, job.resize, job.reader, job.source.pixels.recode, sorted(job.source.label_values))
        return repr((part_of(case, self.test), *kept, states))

    def list_faults(self, faults: Iterable[Fault]) -> Path:
        """All of them in a file."""
        file = self.folder / FAULTS
        file.write_text("".join(f"{fault}\n" for fault in faults))
        return file

    def _read_record(self) -> dict[str, tuple[str, list[Fault]]]:
        """Case -> of what it was made, and the faults with which it was taken."""
        done = {}
        for line in self.record.read_text().splitlines() if self.record.exists() else []:
            try:
                name, signature, accepted = json.loads(line)
            except ValueError:  # the last line of an interrupted run
                continue
            done[name] = signature, [Fault(kind, name, what) for kind, what in accepted]
        return done


def _convert_all(cases: Sequence[Case], draft: Draft, workers: int, progress: Progress | None) -> list[Fault]:
    """Faults in the order of the cases."""
    faults: dict[str, list[Fault]] = {}
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(draft.take, case): case for case in cases}
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                faults[waiting[future].name] = future.result()
                if progress:
                    progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [fault for case in cases for fault in faults[case.name]]


def description(source: Source, n_training: int) -> dict[str, Any]:
    """nnU-Net's dataset.json."""
    return {
        "channel_names": dict(source.channel_names),
        "labels": dict(source.labels),
        "numTraining": n_training,
        "file_ending": source.file_ending,
        **source.extra,
        **(source.notes.to_json() if source.notes != NO_NOTES else {}),
    }


def check_place(folder: Path) -> None:
    """ValueError if the dataset is there already, or another one with its number, by which nnU-Net goes."""
    if folder.exists():
        raise ValueError(f"{folder} exists already; remove it, or choose another number with --dataset-id.")
    others = [Path(os.environ[name]) for name in FOLDERS[1:] if os.environ.get(name)]
    for root in (folder.parent, *others):
        for other in sorted(root.glob(f"{folder.name[: len('Dataset###')]}_*")):
            if other.name != folder.name:
                raise ValueError(f"{other} has this number already; choose another one with --dataset-id.")


def renamed(name: str, number: int) -> str:
    """Dataset###_Name with another number (1 to 999)."""
    if not 0 < number < 1000:
        raise ValueError(f"A dataset's number has three digits, 1 to 999; got {number}.")
    return re.sub(r"^Dataset\d{3}", f"Dataset{number:03d}", name)


def _require_room(root: Path, files: Sequence[Path]) -> None:
    needed = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise ValueError(
            f"{root} has {free / 2**30:.1f} GiB left, but {needed / 2**30:.1f} GiB are needed; "
            "make room, or use --symlink."
        )
