"""A labelled data set before it is nnU-Net's: which files make a case, and what was wrong with their names.

Readers of layouts (`layout.py`, `decathlon.py`, `nnunet_raw.py`) list a folder as a `Source`; `convert.py`
opens the files and writes the dataset.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

KINDS: Mapping[str, str] = {
    "unreadable": "a file that cannot be read in full",
    "missing": "an image without its label, or without one of its channels",
    "extra": "a label without its image",
    "duplicate": "two files for one place in a case",
    "shape": "an image and a label, or two channels, with different numbers of voxels",
    "geometry": "the same voxels, but another spacing, origin, direction or order of axes",
    "header": "a NIfTI header whose qform, sform and pixdim contradict each other",
    "values": "an image with NaN or infinite values, or several values per voxel",
    "labels": "a label file with values that are unknown, or no whole numbers",
    "empty": "a label file with background only",
}
ACCEPTABLE = ("geometry", "header", "empty", "extra")  # what nnU-Net can train with
SHOWN_OF_A_KIND = 5  # faults, in a message
NOTES = "nnunet_mamba"  # key of dataset.json
ROLES = ("train", "val", "test")  # val: the release's own validation cases, labelled


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where; `case` None: not in one case."""

    kind: str  # of KINDS
    case: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True)
class Case:
    """images  one file per channel, or a single file that holds them all
    labels  the files of which the label is made, mostly one; none for a test case
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    role: str = "train"

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, *self.labels)


@dataclass(frozen=True)
class Pixels:
    """How the values of files become nnU-Net's; by default they stay.

    image   file -> (y, x, colours) uint8, for pictures of any kind
    label   files -> values, where a label is drawn from several files or from instances
    recode  value in the files -> label; a value that it lacks is a fault
    """

    image: Callable[[Path], np.ndarray] | None = None
    label: Callable[[tuple[Path, ...]], np.ndarray] | None = None
    recode: Mapping[int, int] = field(default_factory=dict)


AS_THEY_ARE = Pixels()


@dataclass(frozen=True)
class Notes:
    """What later commands need to know of a dataset; kept in its dataset.json, where nnU-Net does not look.

    release  its name in `specs.DATASETS`
    group    what names the patient at the beginning of a case's name, as a regular expression
    moved    labelled cases that a split keeps for the test
    validation  the release's own validation cases
    phases   of ACDC: case -> ED or ES
    """

    release: str | None = None
    group: str | None = None
    moved: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    phases: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {NOTES: {key: value for key, value in asdict(self).items() if value}}

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Notes:
        known = {field.name for field in fields(cls)}
        noted = description.get(NOTES)
        found = {key: noted[key] for key in known & set(noted)} if isinstance(noted, dict) else {}
        lists = {key: tuple(found.get(key, ())) for key in ("moved", "validation")}
        return cls(**{**found, **lists})


NO_NOTES = Notes()


@dataclass(frozen=True)
class Source:
    """A labelled data set, described in nnU-Net's words."""

    name: str  # Dataset###_Name
    channel_names: Mapping[str, str]
    labels: Mapping[str, Any]  # name -> integer, or a list of integers for a region
    file_ending: str
    cases: tuple[Case, ...]
    faults: tuple[Fault, ...] = ()
    strays: tuple[Path, ...] = ()  # images that belong to no case
    extra: Mapping[str, Any] = field(default_factory=dict)  # more of dataset.json
    pixels: Pixels = AS_THEY_ARE
    notes: Notes = NO_NOTES

    @property
    def label_values(self) -> frozenset[int]:
        """Every value that a label file of nnU-Net may hold."""
        values: set[int] = set()
        for value in self.labels.values():
            values.update(value if isinstance(value, list | tuple) else (value,))
        return frozenset(int(value) for value in values)

    def without_test(self) -> Source:
        """Without what cannot be scored."""
        return replace(self, cases=tuple(case for case in self.cases if case.role != "test"))

    def labelled(self) -> tuple[str, ...]:
        """The cases that can be trained on."""
        return tuple(case.name for case in self.cases if case.role != "test")


class InvalidDatasetError(ValueError):
    """A data set with faults that were not accepted."""

    def __init__(self, faults: Iterable[Fault], listing: Path | None = None) -> None:
        """`listing`: the file that holds them all."""
        self.faults = tuple(faults)
        counts = Counter(fault.kind for fault in self.faults)
        head = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        lines = [f"faults in the data ({head}):", *summary(self.faults)]
        if listing is not None and max(counts.values(), default=0) > SHOWN_OF_A_KIND:
            lines.append(f"  all are in {listing}")
        super().__init__("\n".join(lines))


def summary(faults: Iterable[Fault], mark: Callable[[Fault], str] = lambda fault: "") -> Iterator[str]:
    """Yield lines about the first faults of each kind, `mark` before each, and how many more there are."""
    by_kind: dict[str, list[Fault]] = {}
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    for kind, found in by_kind.items():
        yield from (f"  {mark(fault)}{fault}" for fault in found[:SHOWN_OF_A_KIND])
        if len(found) > SHOWN_OF_A_KIND:
            yield f"  {kind}: and {len(found) - SHOWN_OF_A_KIND} more"


def faults_of_names(cases: Iterable[Case]) -> list[Fault]:
    """Cases that share a name; also those that differ in capitals only, one file on some systems."""
    first: dict[str, Case] = {}
    faults = []
    for case in cases:
        other = first.setdefault(case.name.lower(), case)
        if other is not case:
            files = f"{other.images[0]} and {case.images[0]}"
            faults.append(Fault("duplicate", case.name, f"two cases are named {case.name}: {files}"))
    return faults


def fewer_than_counted(
    cases: Iterable[Case], description: Mapping[str, Any], folder: Path
) -> Iterator[Fault]:
    """A fault if numTraining counts cases of which there is neither an image nor a label."""
    found = {case.name for case in cases if case.role == "train"}
    counted = description.get("numTraining")
    if isinstance(counted, int) and len(found) < counted:
        what = f"{folder / 'dataset.json'} counts {counted} training cases, but {len(found)} are there"
        yield Fault("missing", None, what)


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of dataset.json."""
    file = folder / "dataset.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is no dataset: it has no dataset.json. Give a Medical Segmentation Decathlon task "
            f"folder (such as Task04_Hippocampus) or an nnU-Net raw dataset (Dataset###_Name)."
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is not valid JSON ({error}); restore it from the original download."
        ) from error
    if not isinstance(description, dict):
        raise ValueError(
            f"{file} holds a {type(description).__name__}; expected an object with keys and values."
        )
    return description


def check_labels_consecutive(labels: Source, where: Path) -> None:
    """nnU-Net numbers its outputs 0, 1, 2, ...: so must the labels be numbered."""
    values = sorted(labels.label_values)
    if values != list(range(len(values))):
        raise ValueError(
            f"The labels in {where} have the values {values}; nnU-Net needs 0, 1, 2, ... "
            f"without a gap, every name once. Renumber them there and in the label files."
        )


def visible_files(folder: Path, ending: str) -> list[Path]:
    """The files of `folder` with this ending, sorted, without the hidden ones that macOS archives carry."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing; a dataset has the folders imagesTr and labelsTr beside dataset.json."
        )
    files = sorted(
        file for file in folder.iterdir() if file.name.endswith(ending) and not file.name.startswith(".")
    )
    if not files:
        raise ValueError(f"{folder} holds no file that ends in {ending!r}.")
    return files


def is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def letters_only(name: str) -> str:
    """`name` without signs: nnU-Net parses folder names by their underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "", name) or "Data"


def same_word(a: str, b: str) -> bool:
    """Whether two names differ by capitals and signs at most."""
    return letters_only(a).lower() == letters_only(b).lower()


def stem(file: Path, ending: str) -> str:
    return file.name[: -len(ending)]


def some(names: Iterable[str]) -> str:
    """At most five of the names, sorted."""
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")
