"""Layouts of downloaded folders: patterns of paths, and the cases whose files match them.

A pattern is a path with placeholders. <case:amos_\\d{4}> matches its regular expression, and every other
<case> in the pattern must match the same text; <case> without an expression matches by the one in the first
image's pattern, or any name without a slash if that has none. All other text is literal:

    training/<patient:patient\\d{3}>/<case:patient\\d{3}_frame\\d{2}>.nii.gz

A layout may begin some folders below the given one; archives differ in their top folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.study.datasets.source import Case, Issue, find_name_issues

PLACEHOLDER = re.compile(r"<(\w+)(?::((?:[^<>]|<[^<>]*>)*))?>")
DEEPEST_ROOT = 4  # folders between the given one and the layout
Files = Sequence[tuple[str, Path]]
FOLDERS_OF_CASES = ("case", "patient", "video")  # placeholders that name a folder for each
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # of archives made on a Mac


@dataclass(frozen=True)
class Part:
    """Part of a data set: patterns of its images and their labels.

    images  a pattern per channel
    label   the pattern of the label files, "" if there are none; test cases may lack theirs
    case    a case's name, made from the placeholders
    several_labels  a case may have more than one label file
    """

    images: tuple[str, ...]
    label: str = ""
    role: str = "train"
    case: str = "{case}"
    several_labels: bool = False

    def compile(self, pattern: str) -> re.Pattern[str]:
        """Return the regular expression of `pattern`; open placeholders match as in the first image's."""
        known = {name: rule for name, rule in PLACEHOLDER.findall(self.images[0]) if rule}
        seen: set[str] = set()

        def expand(match: re.Match[str]) -> str:
            name, rule = match[1], match[2] or known.get(match[1], "[^/]+")
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>{rule})"

        pieces, end = [], 0
        for match in PLACEHOLDER.finditer(pattern):
            pieces += [re.escape(pattern[end : match.start()]), expand(match)]
            end = match.end()
        return re.compile("".join([*pieces, re.escape(pattern[end:])]))


def list_tree(folders: Iterable[Path], *, named: bool = False) -> tuple[Files, Files]:
    """Return every file and every folder below the folders: sorted, each with its path within its folder,
    without hidden ones.

    named: paths begin with the name of the folder, for layouts that begin above the given folder.
    """
    files: list[tuple[str, Path]] = []
    below: list[tuple[str, Path]] = []
    for root in (folder.resolve() for folder in folders):
        top = root.parent if named else root
        for place, folder_names, file_names in _walk_folders(root):
            for names, found in ((file_names, files), (folder_names, below)):
                paths = (Path(place, name) for name in names)
                found += [(path.relative_to(top).as_posix(), path) for path in paths]
    return _remove_hidden(files), _remove_hidden(below)


def _remove_hidden(found: Files) -> Files:
    return sorted(pair for pair in found if not HIDDEN.search(pair[0]))


def _walk_folders(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield folders and their contents like os.walk; links to folders are followed, each folder once."""
    entered = set()
    for name, folders, files in os.walk(root, followlinks=True):
        entered.add(Path(name).resolve())
        folders[:] = [folder for folder in folders if Path(name, folder).resolve() not in entered]
        yield name, folders, files


def has_images(part: Part, files: Files) -> bool:
    """Return whether there is an image of this part."""
    return bool(_match_files(part, part.images[0], files))


def read_parts(parts: Sequence[Part], files: Files, folders: Files = ()) -> tuple[list[Case], list[Issue]]:
    """Return the cases of all parts, and issues: files that are missing, misplaced, or too many.

    folders: of the release, for layouts that have one per case or patient; one without an image is an issue.
    """
    cases: list[Case] = []
    issues: list[Issue] = []
    for part in parts:
        listed, wrong = _read_part(part, files)
        cases += listed
        issues += wrong
    reported = {issue.case for issue in issues}
    empty = (issue for issue in _find_empty_folders(parts, files, folders) if issue.case not in reported)
    return cases, [*issues, *empty, *find_name_issues(cases)]


def _find_empty_folders(parts: Sequence[Part], files: Files, folders: Files) -> Iterator[Issue]:
    """Yield an issue for each folder of a case, patient or video without an image of any part.

    A folder with the label of an image elsewhere does not count as empty. Folders beside these whose names do
    not match are issues, too.
    """
    patterns = [(part, pattern) for part in parts for pattern in (part.images[0], part.label) if pattern]
    matched = [same for part, pattern in patterns for same in _match_files(part, pattern, files).values()]
    filled = {above for same in matched for file in same for above in file.parents}
    of_cases: dict[Path, Part] = {}
    for part in parts:
        if pattern := get_case_folder(part.images[0]):
            found = _match_files(replace(part, case="{root}"), pattern, folders)
            of_cases |= {folder: part for same in found.values() for folder in same}
    for folder, part in sorted(of_cases.items(), key=lambda item: item[0]):
        if folder not in filled:
            message = f"{folder} holds no image {describe_pattern(part.images[0]).rpartition('/')[2]}"
            yield Issue("missing", folder.name, message)
    parents = {folder.parent for folder in of_cases if folder in filled}
    unmatched = {folder for _, folder in folders if folder.parent in parents} - set(of_cases) - filled
    for folder in sorted(unmatched):
        names = join_names(sorted(other.name for other in of_cases if other.parent == folder.parent))
        message = f"{folder} is next to {names}, but its name has another form: rename or remove it"
        yield Issue("missing", folder.name, message)


def get_case_folder(pattern: str) -> str:
    """Return the beginning of a pattern that names a case's, patient's or video's folder, "" if none does."""
    # slashes within placeholders do not count
    masked = PLACEHOLDER.sub(lambda match: "\0" * len(match[0]), pattern)
    end = masked.rfind("/")
    while end > 0:
        start = masked.rfind("/", 0, end) + 1
        if {match[1] for match in PLACEHOLDER.finditer(pattern[start:end])} & set(FOLDERS_OF_CASES):
            return pattern[:end]
        end = start - 1
    return ""


def find_missing_listed(parts: Sequence[Part], listed: Iterable[Path], folder: Path) -> Iterator[Issue]:
    """Yield an issue for each missing image of those that a release lists, by their paths below `folder`.

    Images in a folder that does not exist are ignored: many copies come without the unlabelled ones.
    """
    missing = [path for path in listed if not (folder / path).is_file() and (folder / path).parent.is_dir()]
    for part in parts:
        expression = part.compile(part.images[0])
        for path in missing:
            if match := expression.fullmatch(path.as_posix()):
                message = f"{folder / path} is listed in {folder / 'dataset.json'}, but missing"
                yield Issue("missing", part.case.format(**match.groupdict()), message)


def describe_pattern(pattern: str) -> str:
    """Return a pattern for people to read: without regular expressions, and without the folders above."""
    return PLACEHOLDER.sub(r"<\1>", pattern).removeprefix("<top>")


def _read_part(part: Part, files: Files) -> tuple[list[Case], list[Issue]]:
    """Return the part's cases without issues, and the issues of the others."""
    channels = [_match_files(part, pattern, files) for pattern in part.images]
    labels = _match_files(part, part.label, files) if part.label else {}
    issues = [*_find_issues(part, channels, labels), *_find_misplaced(part, files, channels[0])]
    wrong = {issue.case for issue in issues}
    cases = [
        Case(name, tuple(channel[name][0] for channel in channels), tuple(labels.get(name, ())), part.role)
        for name in sorted(channels[0])
        if name not in wrong
    ]
    issues += _find_missing_labels(part, cases) if part.several_labels else []
    wrong = {issue.case for issue in issues}
    return [case for case in cases if case.name not in wrong], issues


def _match_files(part: Part, pattern: str, files: Files) -> dict[str, list[Path]]:
    """Return the files of each case that match the pattern, all below one folder, at the top or a few below.

    ValueError if the pattern begins in several folders of the same depth: the user has to choose.
    """
    within = re.compile(rf"(?P<root>(?:[^/]+/){{0,{DEEPEST_ROOT}}}?){part.compile(pattern).pattern}")
    matches = [(match, file) for path, file in files if (match := within.fullmatch(path))]
    roots = {match["root"] for match, _ in matches}
    depth = min((root.count("/") for root in roots), default=0)
    highest = sorted(root for root in roots if root.count("/") == depth)
    if len(highest) > 1:
        raise ValueError(
            f"{describe_pattern(pattern)} is there in several folders: {join_names(sorted(highest))}. "
            "Give one of these."
        )
    found: dict[str, dict[Path, None]] = {}
    for match, file in matches:
        if match["root"] in highest:
            found.setdefault(part.case.format(**match.groupdict()), {})[file] = None  # each once
    return {name: list(files) for name, files in found.items()}


def _find_misplaced(part: Part, files: Files, known: Collection[str]) -> Iterator[Issue]:
    """Yield an issue for each image of an unknown case in a folder deeper than the others."""
    within = re.compile(rf"(?:[^/]+/){{0,{DEEPEST_ROOT}}}?{part.compile(part.images[0]).pattern}")
    deeper: dict[str, Path] = {}
    for path, file in files:
        if match := within.fullmatch(path):
            deeper.setdefault(part.case.format(**match.groupdict()), file)
    for name, file in sorted(deeper.items()):
        if name not in known:
            yield Issue("missing", name, f"{file} does not lie where the other cases do; put it there")


def _find_missing_labels(part: Part, cases: Sequence[Case]) -> Iterator[Issue]:
    """Yield an issue for each case without a label in a folder where its neighbours have one.

    Neighbours are the cases whose images are in the same folder.
    """
    of_folder: dict[tuple[Path, Path], set[str]] = {}
    in_folder: dict[Path, set[str]] = {}
    for case in cases:
        in_folder.setdefault(case.images[0].parent, set()).add(case.name)
        for label in case.labels:
            of_folder.setdefault((case.images[0].parent, label.parent), set()).add(case.name)
    for (images, labels), names in sorted(of_folder.items()):
        for name in sorted(in_folder[images] - names):
            yield Issue("missing", name, f"case {name} has no label in {labels}, where others have one")


def _find_issues(
    part: Part, channels: Sequence[Mapping[str, list[Path]]], labels: Mapping[str, list[Path]]
) -> Iterator[Issue]:
    """Yield issues for missing and superfluous files: each case has one file per channel, and a label."""
    names = sorted(set().union(*channels))
    for name in names:
        for pattern, files in zip(part.images, channels, strict=True):
            if name not in files:
                yield Issue("missing", name, f"case {name} has no image {describe_pattern(pattern)}")
            elif len(files[name]) > 1:
                same = join_names(sorted(map(str, files[name])))
                yield Issue("duplicate", name, f"{same} are the same image")
        if part.label and part.role != "test" and name not in labels:
            yield Issue("missing", name, f"case {name} has no label {describe_pattern(part.label)}")
    for name, found in labels.items():
        if name not in names:
            yield Issue("extra", name, f"{found[0]} has no image {describe_pattern(part.images[0])}")
        elif len(found) > 1 and not part.several_labels:
            yield Issue("duplicate", name, f"{join_names(sorted(map(str, found)))} are the same label")
