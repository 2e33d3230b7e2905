"""Cases of a submission: those of imagesTs, with the names of their files in the archive."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import Grid, get_reader_name, read_header
from nnunet_mamba.io.messages import describe_regex, join_names
from nnunet_mamba.nnunet.dataset_json import check_labels, is_legacy_dataset_json
from nnunet_mamba.study.datasets.acdc import read_phases
from nnunet_mamba.study.datasets.source import Notes, collect_label_values, read_description
from nnunet_mamba.study.submissions.rules import ChallengeRules

ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class ExpectedFile:
    """File that a submission must hold.

    member  its path in the archive
    image   an image on whose grid it must be
    reader  of nnU-Net, whose view of headers counts
    """

    case: str
    member: str
    image: Path
    reader: str = ""

    def read_grid(self) -> Grid:
        """Return the grid of the case's image."""
        return read_header(self.image, self.reader).grid


def read_notes(images: Path, phases: Path | None = None) -> Notes:
    """Return the notes in the dataset.json beside the folder `images`, empty ones if there is none.

    phases: another dataset.json, or a folder of ACDC's release, with the phases.
    """
    folder = Path(images).resolve().parent
    notes = Notes.from_json(read_description(folder)) if (folder / "dataset.json").is_file() else Notes()
    if phases is None:
        return notes
    if phases.is_dir() and not (phases / "dataset.json").is_file():
        return replace(notes, phases=read_phases(phases))
    if phases.is_file() and phases.name != "dataset.json":
        raise ValueError(f"{phases} is not a dataset.json; give one, or the folder of ACDC's release.")
    found = Notes.from_json(read_description(phases if phases.is_dir() else phases.parent)).phases
    if not found:
        raise ValueError(
            f"{phases} says nothing of phases; convert ACDC's release again, or give its folder."
        )
    return replace(notes, phases=found)


def list_expected_files(
    images: Path, rules: ChallengeRules, notes: Notes, predictions: Path | None = None
) -> list[ExpectedFile]:
    """Return a file per case in `images`, sorted, without labelled cases that a split keeps there.

    Images may be nnU-Net's (CASE_0000.nii.gz, a file per channel) or the release's (CASE.nii.gz). nnU-Net's
    reader is that of the dataset.json beside the predictions or the images, else the data set's.
    ValueError for names that match no case, and for cases that would get the same name.
    """
    found: dict[str, Path] = {}
    unknown = []
    for file in list_image_files(images):
        case = match_case(remove_ending(file), rules.case)
        if case is None:
            unknown.append(file.name)
        else:
            found.setdefault(case, file)
    if unknown:
        raise ValueError(
            f"{images} holds files that fit no case of {rules.title}: {join_names(sorted(unknown))}. "
            f"Expected names like {describe_regex(rules.case)}; remove them, or give their form as `case` in "
            "a template."
        )
    names = sorted(set(found) - set(notes.moved))
    if not names:
        raise ValueError(
            f"{images} holds no case to submit: a split moved all {len(found)} there for the test."
        )
    reader = find_reader([*([predictions] if predictions else []), Path(images).resolve().parent], rules)
    members = {case: build_member_name(case, rules, notes.phases) for case in names}
    taken: dict[str, str] = {}
    for case, member in members.items():
        other = taken.setdefault(member, case)
        if other != case:
            raise ValueError(f"{other} and {case} would both be {member}; correct the pattern.")
    return [ExpectedFile(case, member, found[case], reader) for case, member in members.items()]


def find_reader(folders: Iterable[Path], rules: ChallengeRules) -> str:
    """Return nnU-Net's reader by its first dataset.json in `folders`, else by the specification."""
    found = next(iter(_read_descriptions(folders).values()), None)
    return get_reader_name(found) if found else rules.spec.reader or ""


def _read_descriptions(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Return nnU-Net's dataset.json of each folder that has one; those of releases are ignored."""
    files = (folder / "dataset.json" for folder in folders)
    found = {file: read_description(file.parent) for file in files if file.is_file()}
    return {file: content for file, content in found.items() if not is_legacy_dataset_json(content)}


def list_image_files(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder, sorted, without hidden ones. ValueError if there are none."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with files CASE_0000.nii.gz.")
    visible = (file for file in Path(folder).iterdir() if not file.name.startswith("."))
    files = sorted(file for file in visible if file.name.endswith(ENDINGS))
    if not files:
        raise ValueError(f"{folder} holds no file that ends in {' or '.join(ENDINGS)}.")
    return files


def remove_ending(file: Path) -> str:
    """Return the file's name without .nii or .nii.gz."""
    return next(file.name.removesuffix(ending) for ending in ENDINGS if file.name.endswith(ending))


def match_case(stem: str, pattern: str) -> str | None:
    """Return the case of a file's stem, with or without the number of a channel; None if it matches none."""
    for case in (stem, re.sub(r"_\d{4}$", "", stem)):
        if re.fullmatch(pattern, case):
            return case
    return None


def build_member_name(case: str, rules: ChallengeRules, phases: Mapping[str, str]) -> str:
    """Return the path of a case's file in the archive. ValueError if the pattern makes no file name."""
    match = re.fullmatch(rules.case, case)
    assert match is not None
    words: dict[str, Any] = {"case": case, **match.groupdict()}
    if "{phase}" in rules.name:
        if case not in phases:
            raise ValueError(
                f"Whether {case} is end diastole or end systole is not known: the dataset.json beside the "
                "images does not say so. Give a dataset.json that does, or the release, with --phases."
            )
        words["phase"] = phases[case]
    try:
        name = rules.name.format(**words)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"The pattern {rules.name!r} cannot be filled ({error}); of {case} these are known: "
            f"{', '.join(f'{{{word}}}' for word in words)}."
        ) from error
    if not name.endswith(ENDINGS) or "/" in name or "\\" in name:
        raise ValueError(
            f"The pattern {rules.name!r} makes {name!r} of {case}; expected a file name ending in "
            f"{' or '.join(ENDINGS)}. A folder is given by itself."
        )
    folder = rules.folder.strip("/")
    if ".." in folder.split("/"):
        raise ValueError(f"The folder {rules.folder!r} leaves the archive; give one below its top.")
    return f"{folder}/{name}" if folder else name


def check_same_labels(rules: ChallengeRules, folders: Iterable[Path]) -> None:
    """Raise ValueError if predictions have other labels: their form would be right, and their organs wrong.

    The labels are those of the first of `folders` with a dataset.json that has some; nnU-Net writes one
    beside predictions. Values given by the user are not checked.
    """
    descriptions = _read_descriptions(folders).items()
    described = {file: content for file, content in descriptions if content.get("labels")}
    if rules.values or not described:
        return
    file, description = next(iter(described.items()))
    ours, theirs, order = rules.spec.labels or {}, description["labels"], rules.spec.regions_class_order
    check_labels(theirs, file)
    same = collect_label_values(theirs) == collect_label_values(ours)
    same = same and normalize_labels(theirs) == normalize_labels(ours)
    if order and "regions_class_order" in description:
        written = get_region_values(theirs, description["regions_class_order"])
        same = same and written == get_region_values(ours, order)
    if not same:
        regions = f", regions written as {list(order)}" if order else ""
        raise ValueError(
            f"{file} has the labels {theirs}, but {rules.title} is made of {dict(ours)}"
            f"{regions}. Submit predictions for these, or say what becomes what with `values` in a template."
        )


def normalize_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return labels that compare equal whatever their capitals and the types of their values."""
    return {name.lower(): sorted(collect_label_values({name: value})) for name, value in labels.items()}


def get_region_values(labels: Mapping[str, Any], order: Iterable[Any]) -> dict[str, Any]:
    """Return the value that nnU-Net writes for each region, by its name: `order` is regions_class_order."""
    regions = [name.lower() for name in labels if name not in ("background", "ignore")]
    return dict(zip(regions, order, strict=False))


def find_predictions(
    folder: Path, expected: Collection[ExpectedFile], ignored: Collection[str]
) -> dict[str, Path]:
    """Return the prediction of each case.

    ValueError for missing and superfluous ones; those of `ignored` cases may exist.
    """
    found: dict[str, Path] = {}
    for file in list_image_files(folder):
        other = found.setdefault(remove_ending(file), file)
        if other != file:
            raise ValueError(f"{folder} holds {other.name} and {file.name} for one case; remove one.")
    cases = {file.case for file in expected}
    problems = []
    if missing := cases - set(found):
        names = join_names(sorted(missing))
        problems.append(f"no prediction of {len(missing)} cases ({names}): predict them")
    if extra := set(found) - cases - set(ignored):
        names = join_names(sorted(extra))
        problems.append(f"{len(extra)} predictions of cases without an image ({names}): take them out")
    if problems:
        raise ValueError(f"{folder} does not hold exactly the expected cases: {'; '.join(problems)}.")
    return {case: found[case] for case in sorted(cases)}
