"""Description of a labelled data set before it is nnU-Net's: the files of each case, and issues found so far.

Readers (`layout.py`, `readers.py`) list a folder as a `Source`; `convert.py` opens the files and writes the
dataset.
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
ACCEPTABLE = ("geometry", "header", "empty", "extra")  # kinds that nnU-Net can train with
MOST_OF_A_KIND = 5  # issues listed in a message
NOTES = "nnunet_mamba"  # key of dataset.json
CaseProgressFn = Callable[[int, int], None]  # called with the numbers of cases done, and in all


@dataclass(frozen=True)
class Issue:
    """Problem found in a release; users read it as a fault.

    kind     of `KINDS`
    case     its name, None if the issue does not concern a single case
    message  names the file
    """

    kind: str
    case: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Case:
    """Files of one case.

    images  one file per channel, or a single file with all channels
    labels  the files from which the label is made, mostly one; none for a test case
    role    train, val (the release's own validation cases, labelled) or test
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    role: str = "train"

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, *self.labels)


@dataclass(frozen=True)
class PixelConversion:
    """Functions that turn the values of files into nnU-Net's; by default the values stay.

    image   file -> (y, x, colours) uint8, for pictures of any kind
    label   files -> values, where a label is drawn from several files or from instances
    recode  value in the files -> label; a value without an entry is an issue
    """

    image: Callable[[Path], np.ndarray] | None = None
    label: Callable[[tuple[Path, ...]], np.ndarray] | None = None
    recode: Mapping[int, int] = field(default_factory=dict)


UNCHANGED_PIXELS = PixelConversion()


@dataclass(frozen=True)
class Notes:
    """Facts about a dataset for later commands; kept in its dataset.json under a key that nnU-Net ignores.

    release  its name in `specs.DATASETS`
    group    regular expression of the patient at the beginning of a case's name
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
        """Return the entry for dataset.json, without empty fields."""
        return {NOTES: {key: value for key, value in asdict(self).items() if value}}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Notes:
        """Return the notes in the contents of a dataset.json; unknown keys are ignored."""
        known = {field.name for field in fields(cls)}
        noted = description.get(NOTES)
        found = {key: noted[key] for key in known & set(noted)} if isinstance(noted, dict) else {}
        lists = {key: tuple(found.get(key, ())) for key in ("moved", "validation")}
        return cls(**{**found, **lists})


NO_NOTES = Notes()


@dataclass(frozen=True)
class Source:
    """Labelled data set in nnU-Net's terms.

    name    Dataset###_Name
    labels  name -> integer, or a list of integers for a region
    unmatched  images that belong to no case
    extra   more entries of dataset.json
    """

    name: str
    channel_names: Mapping[str, str]
    labels: Mapping[str, Any]
    file_ending: str
    cases: tuple[Case, ...]
    issues: tuple[Issue, ...] = ()
    unmatched: tuple[Path, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    pixels: PixelConversion = UNCHANGED_PIXELS
    notes: Notes = NO_NOTES

    @property
    def label_values(self) -> frozenset[int]:
        """Every value that a label file of nnU-Net may hold."""
        return collect_label_values(self.labels)

    def without_test(self) -> Source:
        """Return the source without its test cases, which cannot be scored."""
        return replace(self, cases=tuple(case for case in self.cases if case.role != "test"))

    def labelled_names(self) -> tuple[str, ...]:
        """Return the names of the cases that can be trained on."""
        return tuple(case.name for case in self.cases if case.role != "test")


class InvalidDatasetError(ValueError):
    """Error for a data set with issues that were not accepted."""

    def __init__(self, issues: Iterable[Issue], listing: Path | None = None) -> None:
        """Make the message from the first issues of each kind; `listing` is a file that holds all of them."""
        self.issues = tuple(issues)
        counts = Counter(issue.kind for issue in self.issues)
        head = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        lines = [f"faults in the data ({head}):", *summarize_issues(self.issues)]
        if listing is not None and max(counts.values(), default=0) > MOST_OF_A_KIND:
            lines.append(f"  all are in {listing}")
        super().__init__("\n".join(lines))


def summarize_issues(
    issues: Iterable[Issue], prefix: Callable[[Issue], str] = lambda issue: ""
) -> Iterator[str]:
    """Yield a line for each of the first issues of a kind, after `prefix`, and one that counts the others."""
    by_kind: dict[str, list[Issue]] = {}
    for issue in issues:
        by_kind.setdefault(issue.kind, []).append(issue)
    for kind, found in by_kind.items():
        yield from (f"  {prefix(issue)}{issue}" for issue in found[:MOST_OF_A_KIND])
        if len(found) > MOST_OF_A_KIND:
            yield f"  {kind}: and {len(found) - MOST_OF_A_KIND} more"


def find_name_issues(cases: Iterable[Case]) -> list[Issue]:
    """Return an issue for each case whose name another case has.

    Names that differ in capitals only count as equal: on some systems they are one file.
    """
    first: dict[str, Case] = {}
    issues = []
    for case in cases:
        other = first.setdefault(case.name.lower(), case)
        if other is not case:
            files = f"{other.images[0]} and {case.images[0]}"
            issues.append(Issue("duplicate", case.name, f"two cases are named {case.name}: {files}"))
    return issues


def find_count_issues(cases: Iterable[Case], description: Mapping[str, Any], folder: Path) -> Iterator[Issue]:
    """Yield an issue if numTraining counts cases of which neither image nor label exists."""
    found = {case.name for case in cases if case.role == "train"}
    counted = description.get("numTraining")
    if isinstance(counted, int) and len(found) < counted:
        message = f"{folder / 'dataset.json'} counts {counted} training cases, but {len(found)} are there"
        yield Issue("missing", None, message)


def read_description(folder: Path) -> dict[str, Any]:
    """Return the contents of dataset.json. ValueError if it is missing or damaged."""
    file = folder / "dataset.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is not a dataset: it has no dataset.json. Give a Medical Segmentation Decathlon task "
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


def collect_label_values(labels: Mapping[str, Any]) -> frozenset[int]:
    """Return every value of the labels and regions of a dataset.json."""
    lists = (value if isinstance(value, list | tuple) else (value,) for value in labels.values())
    return frozenset(int(value) for values in lists for value in values)


def check_labels_consecutive(labels: Source, where: Path) -> None:
    """Raise ValueError unless labels are numbered 0, 1, 2, ..., as nnU-Net numbers its outputs."""
    values = sorted(labels.label_values)
    if values != list(range(len(values))):
        raise ValueError(
            f"The labels in {where} have the values {values}; nnU-Net needs 0, 1, 2, ... "
            f"without a gap, every name once. Renumber them there and in the label files."
        )


def list_visible_files(folder: Path, ending: str) -> list[Path]:
    """Return the files of `folder` with this ending, sorted, without the hidden ones of macOS archives.

    ValueError if there are none.
    """
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
    """Return whether the folder exists and is not empty."""
    return folder.is_dir() and any(folder.iterdir())


def remove_signs(name: str) -> str:
    """Return `name` without signs: nnU-Net parses folder names by their underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "", name) or "Data"


def is_same_word(a: str, b: str) -> bool:
    """Return whether two names differ by capitals and signs at most."""
    return remove_signs(a).lower() == remove_signs(b).lower()


def remove_ending(file: Path, ending: str) -> str:
    """Return the file's name without `ending`."""
    return file.name[: -len(ending)]
