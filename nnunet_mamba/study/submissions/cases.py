"""Which files a submission must hold: the cases of imagesTs, under the names that the rules give them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import Grid, read_header, reader_of
from nnunet_mamba.io.messages import form_of
from nnunet_mamba.nnunet.dataset_json import check_labels, is_of_a_release
from nnunet_mamba.study.datasets.acdc import phases_of_release
from nnunet_mamba.study.datasets.source import Notes, read_description, some
from nnunet_mamba.study.submissions.rules import Rules, all_values

ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Expected:
    """A case, the file that it is in the archive, and an image on whose grid it must be.

    reader  of nnU-Net, whose view of headers counts
    """

    case: str
    member: str
    image: Path
    reader: str = ""

    def grid(self) -> Grid:
        return read_header(self.image, self.reader).grid


def facts_beside(images: Path, phases: Path | None = None) -> Notes:
    """What is known of the cases: the notes in the dataset.json beside the folder `images`, if there is one.

    phases  another dataset.json, or a folder of ACDC's release, from which the phases come
    """
    folder = Path(images).resolve().parent
    notes = Notes.of(read_description(folder)) if (folder / "dataset.json").is_file() else Notes()
    if phases is None:
        return notes
    if phases.is_dir() and not (phases / "dataset.json").is_file():
        return replace(notes, phases=phases_of_release(phases))
    if phases.is_file() and phases.name != "dataset.json":
        raise ValueError(f"{phases} is no dataset.json; give one, or the folder of ACDC's release.")
    found = Notes.of(read_description(phases if phases.is_dir() else phases.parent)).phases
    if not found:
        raise ValueError(
            f"{phases} says nothing of phases; convert ACDC's release again, or give its folder."
        )
    return replace(notes, phases=found)


def expected_files(
    images: Path, rules: Rules, facts: Notes, predictions: Path | None = None
) -> list[Expected]:
    """One per case in `images`, sorted; without labelled cases that a split keeps there.

    nnU-Net's reader is that of the dataset.json beside the predictions or the images, else the data set's.
    The files may be nnU-Net's (CASE_0000.nii.gz, a file per channel) or the release's (CASE.nii.gz).
    ValueError for names that fit no case, and for cases that would get the same name.
    """
    found: dict[str, Path] = {}
    strangers = []
    for file in image_files(images):
        case = case_of(without_ending(file), rules.case)
        if case is None:
            strangers.append(file.name)
        else:
            found.setdefault(case, file)
    if strangers:
        raise ValueError(
            f"{images} holds files that fit no case of {rules.title}: {some(strangers)}. Expected names like "
            f"{form_of(rules.case)}; take them out, or give their form as `case` in a template."
        )
    due = sorted(set(found) - set(facts.moved))
    if not due:
        raise ValueError(
            f"{images} holds no case to submit: a split moved all {len(found)} there for the test."
        )
    reader = reader_near([*([predictions] if predictions else []), Path(images).resolve().parent], rules)
    expected = [Expected(case, member(case, rules, facts.phases), found[case], reader) for case in due]
    taken: dict[str, str] = {}
    for file_ in expected:
        other = taken.setdefault(file_.member, file_.case)
        if other != file_.case:
            raise ValueError(f"{other} and {file_.case} would both be {file_.member}; correct the pattern.")
    return expected


def reader_near(folders: Iterable[Path], rules: Rules) -> str:
    """Return nnU-Net's reader by its first dataset.json in `folders`, else by the specification."""
    found = next(iter(_descriptions(folders).values()), None)
    return reader_of(found) if found else rules.spec.reader or ""


def _descriptions(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """nnU-Net's dataset.json of each folder that has one; those of releases are passed over."""
    files = (folder / "dataset.json" for folder in folders)
    found = {file: read_description(file.parent) for file in files if file.is_file()}
    return {file: content for file, content in found.items() if not is_of_a_release(content)}


def image_files(folder: Path) -> list[Path]:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder; expected one with files CASE_0000.nii.gz.")
    visible = (file for file in Path(folder).iterdir() if not file.name.startswith("."))
    files = sorted(file for file in visible if file.name.endswith(ENDINGS))
    if not files:
        raise ValueError(f"{folder} holds no file that ends in {' or '.join(ENDINGS)}.")
    return files


def without_ending(file: Path) -> str:
    return next(file.name.removesuffix(ending) for ending in ENDINGS if file.name.endswith(ending))


def case_of(stem: str, pattern: str) -> str | None:
    """The case that a file is of, with or without the number of a channel."""
    for case in (stem, re.sub(r"_\d{4}$", "", stem)):
        if re.fullmatch(pattern, case):
            return case
    return None


def member(case: str, rules: Rules, phases: Mapping[str, str]) -> str:
    """The path of a case's file in the archive."""
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


def require_same_labels(rules: Rules, folders: Iterable[Path]) -> None:
    """Refuse predictions with other labels: a right form would hide wrong organs. The first of `folders` with
    a dataset.json that has labels tells; nnU-Net lays one beside predictions. Values given by the user settle
    the matter."""
    told = {file: content for file, content in _descriptions(folders).items() if content.get("labels")}
    if rules.values or not told:
        return
    file, description = next(iter(told.items()))
    ours, theirs, order = rules.spec.labels or {}, description["labels"], rules.spec.regions_class_order
    check_labels(theirs, file)
    same = all_values(theirs) == all_values(ours) and comparable(theirs) == comparable(ours)
    if order and "regions_class_order" in description:
        same = same and written(theirs, description["regions_class_order"]) == written(ours, order)
    if not same:
        regions = f", regions written as {list(order)}" if order else ""
        raise ValueError(
            f"{file} has the labels {theirs}, but {rules.title} is made of {dict(ours)}"
            f"{regions}. Submit predictions for these, or say what becomes what with `values` in a template."
        )


def comparable(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Labels by name, whatever their capitals and whether their values are lists, tuples or texts."""
    return {name.lower(): sorted(all_values({name: value})) for name, value in labels.items()}


def written(labels: Mapping[str, Any], order: Iterable[Any]) -> dict[str, Any]:
    """The value that nnU-Net writes for each region, by its name: `order` is regions_class_order."""
    regions = [name.lower() for name in labels if name not in ("background", "ignore")]
    return dict(zip(regions, order, strict=False))


def predictions_in(folder: Path, expected: Collection[Expected], ignored: Collection[str]) -> dict[str, Path]:
    """case -> file. ValueError for missing and unexpected ones; those of `ignored` cases may be there."""
    found: dict[str, Path] = {}
    for file in image_files(folder):
        other = found.setdefault(without_ending(file), file)
        if other != file:
            raise ValueError(f"{folder} holds {other.name} and {file.name} for one case; remove one.")
    due = {file.case for file in expected}
    faults = []
    if missing := due - set(found):
        faults.append(f"no prediction of {len(missing)} cases ({some(missing)}): predict them")
    if extra := set(found) - due - set(ignored):
        faults.append(f"{len(extra)} predictions of cases without an image ({some(extra)}): take them out")
    if faults:
        raise ValueError(f"{folder} has not the cases that are due: {'; '.join(faults)}.")
    return {case: found[case] for case in sorted(due)}
