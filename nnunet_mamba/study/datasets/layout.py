"""Patterns of paths -> cases: how a downloaded folder is read.

A pattern is a path with places: <case:amos_\\d{4}> matches by its regular expression and is remembered,
<case> matches what was remembered, or any name without a slash where nothing was. All else stands for itself:

    training/<patient:patient\\d{3}>/<case:patient\\d{3}_frame\\d{2}>.nii.gz

A layout may begin some folders below what the user gives; archives differ in their top folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_mamba.study.datasets.source import Case, Fault, faults_of_names, some

PLACE = re.compile(r"<(\w+)(?::((?:[^<>]|<[^<>]*>)*))?>")
DEEPEST_ROOT = 4  # folders between what the user gives and the layout
Files = Sequence[tuple[str, Path]]
FOLDERS_OF_CASES = ("case", "patient", "video")  # places that name a folder for each
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # of archives made on a Mac


@dataclass(frozen=True)
class Part:
    """One part of a data set: its images and their labels.

    images  a pattern per channel
    label   the pattern of the label files, "" where there are none; test cases may lack theirs
    case    how the places make a case's name
    several whether a case has more than one label file
    """

    images: tuple[str, ...]
    label: str = ""
    role: str = "train"
    case: str = "{case}"
    several: bool = False

    def expression(self, pattern: str) -> re.Pattern[str]:
        """Places that `pattern` leaves open are matched as the first image's are."""
        known = {name: rule for name, rule in PLACE.findall(self.images[0]) if rule}
        seen: set[str] = set()

        def place(match: re.Match[str]) -> str:
            name, rule = match[1], match[2] or known.get(match[1], "[^/]+")
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>{rule})"

        pieces, at = [], 0
        for match in PLACE.finditer(pattern):
            pieces += [re.escape(pattern[at : match.start()]), place(match)]
            at = match.end()
        return re.compile("".join([*pieces, re.escape(pattern[at:])]))


def list_files(folders: Iterable[Path], *, named: bool = False) -> Files:
    """Every file below the folders, sorted, by its path within its folder; hidden ones are left out.

    named: paths begin with the name of the folder, for layouts that begin above what the user gives.
    """
    return list_tree(folders, named=named)[0]


def list_tree(folders: Iterable[Path], *, named: bool = False) -> tuple[Files, Files]:
    """Every file, as `list_files` has them, and every folder likewise."""
    files: list[tuple[str, Path]] = []
    below: list[tuple[str, Path]] = []
    for root in (folder.resolve() for folder in folders):
        top = root.parent if named else root
        for place, folder_names, file_names in _walk(root):
            for names, found in ((file_names, files), (folder_names, below)):
                paths = (Path(place, name) for name in names)
                found += [(path.relative_to(top).as_posix(), path) for path in paths]
    return _visible(files), _visible(below)


def _visible(found: Files) -> Files:
    return sorted(pair for pair in found if not HIDDEN.search(pair[0]))


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders, what is in them, also behind links to folders, each of which is entered once."""
    entered = set()
    for name, folders, files in os.walk(root, followlinks=True):
        entered.add(Path(name).resolve())
        folders[:] = [folder for folder in folders if Path(name, folder).resolve() not in entered]
        yield name, folders, files


def fits(part: Part, files: Files) -> bool:
    """Whether there is an image of this part."""
    return bool(_match(part, part.images[0], files))


def read_parts(parts: Sequence[Part], files: Files, folders: Files = ()) -> tuple[list[Case], list[Fault]]:
    """Cases of all parts, and what is missing or too much.

    folders: of the release, for layouts that have one per case or patient; one without an image is a fault.
    """
    cases: list[Case] = []
    faults: list[Fault] = []
    for part in parts:
        listed, wrong = _read_part(part, files)
        cases += listed
        faults += wrong
    told = {fault.case for fault in faults}
    vanished = (fault for fault in _without_images(parts, files, folders) if fault.case not in told)
    return cases, [*faults, *vanished, *faults_of_names(cases)]


def _without_images(parts: Sequence[Part], files: Files, folders: Files) -> Iterator[Fault]:
    """A fault for each folder of a case, patient or video in which no image of any part lies (and no label
    of one that lies elsewhere), and for each folder beside these that is not named as they are."""
    patterns = [(part, pattern) for part in parts for pattern in (part.images[0], part.label) if pattern]
    matched = [same for part, pattern in patterns for same in _match(part, pattern, files).values()]
    filled = {above for same in matched for file in same for above in file.parents}
    of_cases: dict[Path, Part] = {}
    for part in parts:
        if pattern := folder_of_case(part.images[0]):
            found = _match(replace(part, case="{root}"), pattern, folders)
            of_cases |= {folder: part for same in found.values() for folder in same}
    for folder, part in sorted(of_cases.items(), key=lambda item: item[0]):
        if folder not in filled:
            what = f"{folder} holds no image {shown(part.images[0]).rpartition('/')[2]}"
            yield Fault("missing", folder.name, what)
    beside = {folder.parent for folder in of_cases if folder in filled}
    strange = {folder for _, folder in folders if folder.parent in beside} - set(of_cases) - filled
    for folder in sorted(strange):
        names = some(other.name for other in of_cases if other.parent == folder.parent)
        what = f"{folder} lies beside {names}, and is not named as they are: rename it, or take it away"
        yield Fault("missing", folder.name, what)


def folder_of_case(pattern: str) -> str:
    """The beginning of a pattern that names the folder of one case, patient or video; "" where none does."""
    masked = PLACE.sub(lambda place: "\0" * len(place[0]), pattern)  # slashes within places do not count
    end = masked.rfind("/")
    while end > 0:
        start = masked.rfind("/", 0, end) + 1
        if {place[1] for place in PLACE.finditer(pattern[start:end])} & set(FOLDERS_OF_CASES):
            return pattern[:end]
        end = start - 1
    return ""


def missing_of_list(parts: Sequence[Part], listed: Iterable[Path], folder: Path) -> Iterator[Fault]:
    """A fault for each image that a release lists, by its path below `folder`, and that is not there.

    Folders of images that are not there at all are passed over: many copies come without the unlabelled ones.
    """
    missing = [path for path in listed if not (folder / path).is_file() and (folder / path).parent.is_dir()]
    for part in parts:
        expression = part.expression(part.images[0])
        for path in missing:
            if match := expression.fullmatch(path.as_posix()):
                what = f"{folder / path} is listed in {folder / 'dataset.json'}, but missing"
                yield Fault("missing", part.case.format(**match.groupdict()), what)


def shown(pattern: str) -> str:
    """A pattern as people write them: without regular expressions, and without the folders above."""
    return PLACE.sub(r"<\1>", pattern).removeprefix("<top>")


def _read_part(part: Part, files: Files) -> tuple[list[Case], list[Fault]]:
    channels = [_match(part, pattern, files) for pattern in part.images]
    labels = _match(part, part.label, files) if part.label else {}
    faults = [*_faults(part, channels, labels), *_elsewhere(part, files, channels[0])]
    wrong = {fault.case for fault in faults}
    cases = [
        Case(name, tuple(channel[name][0] for channel in channels), tuple(labels.get(name, ())), part.role)
        for name in sorted(channels[0])
        if name not in wrong
    ]
    faults += _without_masks(part, cases) if part.several else []
    wrong = {fault.case for fault in faults}
    return [case for case in cases if case.name not in wrong], faults


def _match(part: Part, pattern: str, files: Files) -> dict[str, list[Path]]:
    """Case -> its files that fit the pattern, at the top or a few folders below, always below the same one.

    ValueError if the pattern begins in several folders of the same depth: the user has to choose.
    """
    within = re.compile(rf"(?P<root>(?:[^/]+/){{0,{DEEPEST_ROOT}}}?){part.expression(pattern).pattern}")
    matches = [(match, file) for path, file in files if (match := within.fullmatch(path))]
    roots = {match["root"] for match, _ in matches}
    depth = min((root.count("/") for root in roots), default=0)
    highest = sorted(root for root in roots if root.count("/") == depth)
    if len(highest) > 1:
        raise ValueError(f"{shown(pattern)} is there in several folders: {some(highest)}. Give one of these.")
    found: dict[str, dict[Path, None]] = {}
    for match, file in matches:
        if match["root"] in highest:
            found.setdefault(part.case.format(**match.groupdict()), {})[file] = None  # each once
    return {name: list(files) for name, files in found.items()}


def _elsewhere(part: Part, files: Files, known: Collection[str]) -> Iterator[Fault]:
    """A fault for each image of an unknown case that lies deeper than the others do."""
    within = re.compile(rf"(?:[^/]+/){{0,{DEEPEST_ROOT}}}?{part.expression(part.images[0]).pattern}")
    deeper: dict[str, Path] = {}
    for path, file in files:
        if match := within.fullmatch(path):
            deeper.setdefault(part.case.format(**match.groupdict()), file)
    for name, file in sorted(deeper.items()):
        if name not in known:
            yield Fault("missing", name, f"{file} does not lie where the other cases do; put it there")


def _without_masks(part: Part, cases: Sequence[Case]) -> Iterator[Fault]:
    """A fault for each case without a label in a folder in which others of its folder of images have one."""
    of_folder: dict[tuple[Path, Path], set[str]] = {}
    in_folder: dict[Path, set[str]] = {}
    for case in cases:
        in_folder.setdefault(case.images[0].parent, set()).add(case.name)
        for label in case.labels:
            of_folder.setdefault((case.images[0].parent, label.parent), set()).add(case.name)
    for (images, labels), names in sorted(of_folder.items()):
        for name in sorted(in_folder[images] - names):
            yield Fault("missing", name, f"case {name} has no label in {labels}, where others have one")


def _faults(
    part: Part, channels: Sequence[Mapping[str, list[Path]]], labels: Mapping[str, list[Path]]
) -> Iterator[Fault]:
    names = sorted(set().union(*channels))
    for name in names:
        for pattern, files in zip(part.images, channels, strict=True):
            if name not in files:
                yield Fault("missing", name, f"case {name} has no image {shown(pattern)}")
            elif len(files[name]) > 1:
                yield Fault("duplicate", name, f"{some(map(str, files[name]))} are the same image")
        if part.label and part.role != "test" and name not in labels:
            yield Fault("missing", name, f"case {name} has no label {shown(part.label)}")
    for name, found in labels.items():
        if name not in names:
            yield Fault("extra", name, f"{found[0]} has no image {shown(part.images[0])}")
        elif len(found) > 1 and not part.several:
            yield Fault("duplicate", name, f"{some(map(str, found))} are the same label")
