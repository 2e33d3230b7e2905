"""Readers of folders that describe themselves: a Decathlon task, or an nnU-Net raw dataset.

Decathlon  dataset.json with "training" pairs and "modality"; 3D images, or 4D ones with the channels last
nnU-Net    Dataset###_Name with dataset.json, imagesTr/CASE_0000.., labelsTr/CASE
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import TIFF, count_picture_channels, get_reader_name, get_spacing_file, is_picture
from nnunet_mamba.nnunet.dataset_json import check_labels, sort_channels
from nnunet_mamba.study.datasets.source import (
    NOTES,
    Case,
    Issue,
    Notes,
    Source,
    check_labels_consecutive,
    find_count_issues,
    find_name_issues,
    is_filled,
    list_visible_files,
    read_description,
    remove_ending,
    remove_signs,
)

CARRIED = ("description", "reference", "licence")  # copied from a task's dataset.json
FALLBACK_ID = 901  # for a folder whose name carries no task number
REQUIRED = ("channel_names", "labels", "file_ending")  # by nnU-Net, in dataset.json
OWN = ("numTraining", NOTES, *REQUIRED)  # entries that have fields of their own in a source


def read_source(folder: Path) -> Source:
    """Read the data set in `folder`: a Decathlon task, or an nnU-Net raw dataset. ValueError for others."""
    folder = Path(folder).resolve()
    description = read_description(folder)
    if is_decathlon(description):
        return read_decathlon(folder, description)
    if "channel_names" in description:
        source = read_nnunet_raw(folder, description)
        tests = {
            remove_ending(file, source.file_ending)[:-5]
            for file in folder.glob(f"imagesTs/*{source.file_ending}")
        }
        faulty = {issue.case for issue in source.issues if issue.case} - tests
        known = [*source.cases, *(Case(name, ()) for name in faulty)]
        return replace(source, issues=(*source.issues, *find_count_issues(known, description, folder)))
    raise ValueError(
        f"{folder / 'dataset.json'} is neither a Decathlon task's (keys 'training' and 'modality') nor "
        f"nnU-Net's (key 'channel_names'); its keys are {', '.join(sorted(description)) or 'none'}."
    )


def is_decathlon(description: dict[str, Any]) -> bool:
    """Return whether a dataset.json is that of a Decathlon task."""
    return "training" in description and "modality" in description


def read_decathlon(folder: Path, description: dict[str, Any]) -> Source:
    """Read a task: cases in the order of its "training" list, then the unlabelled ones of imagesTs."""
    _check_entries(folder, description)
    training = [
        Case(
            remove_ending(Path(entry["label"]), ".nii.gz"),
            (folder / entry["image"],),
            (folder / entry["label"],),
        )
        for entry in description["training"]
    ]
    test = _list_test_cases(folder)
    issues = [
        *find_name_issues(training + test),
        *_find_missing_files(training, folder),
        *find_count_issues(training, description, folder),
        *_find_missing_tests(test, folder, description),
        *_find_unlisted_files(training, folder),
    ]
    absent = {issue.case for issue in issues if issue.kind == "missing"}
    source = Source(
        build_dataset_name(folder, description),
        sort_channels(description["modality"], folder / "dataset.json"),
        _invert_labels(description["labels"], folder / "dataset.json"),
        ".nii.gz",
        tuple([case for case in training if case.name not in absent] + test),
        tuple(issues),
        extra={key: description[key] for key in CARRIED if key in description},
    )
    check_labels_consecutive(source, folder / "dataset.json")
    return source


def _check_entries(folder: Path, description: dict[str, Any]) -> None:
    """Raise ValueError unless dataset.json has labels and pairs of files."""
    pairs = description["training"]
    complete = all(isinstance(pair, dict) and {"image", "label"} <= set(pair) for pair in pairs)
    if not complete or not isinstance(description.get("labels"), dict):
        raise ValueError(
            f'{folder / "dataset.json"} should have "labels" (number -> name) and "training", a list of '
            '{"image": ..., "label": ...}; restore it from the original download.'
        )


def _invert_labels(labels: dict[str, Any], where: Path) -> dict[str, int]:
    """Return nnU-Net's labels (name -> number) for the Decathlon's (number -> name)."""
    if wrong := [number for number in labels if not str(number).isdecimal()]:
        raise ValueError(
            f'The labels in {where} have {wrong[0]!r} where a Decathlon task has a number; expected {{"0": '
            '"background", "1": ...}. A dataset of nnU-Net v2 has channel_names, and no list "training".'
        )
    return {str(name): int(number) for number, name in labels.items()}


def build_dataset_name(folder: Path, description: dict[str, Any]) -> str:
    """Return Dataset004_Hippocampus for Task04_Hippocampus; other names come from dataset.json."""
    match = re.fullmatch(r"Task(\d{1,3})_(\w+)", folder.name)
    number, name = (
        (int(match[1]), match[2]) if match else (FALLBACK_ID, str(description.get("name") or folder.name))
    )
    return f"Dataset{number:03d}_{remove_signs(name)}"


def _find_missing_files(training: list[Case], folder: Path) -> Iterator[Issue]:
    """Yield an issue for each listed file that is missing, and for pairs with different names."""
    listed = f"is listed in {folder / 'dataset.json'}, but missing"
    for case in training:
        if case.images[0].name != case.labels[0].name:
            message = f"{folder / 'dataset.json'} lists {case.labels[0].name} for {case.images[0].name}"
            yield Issue("missing", case.name, f"{message}; expected an image and a label of one name")
        for file in case.files:
            if not file.is_file():
                yield Issue("missing", case.name, f"{file} {listed}")


def _find_missing_tests(test: list[Case], folder: Path, description: dict[str, Any]) -> Iterator[Issue]:
    """Yield an issue for each missing image of the test list, if imagesTs exists: many copies lack it."""
    there = {case.images[0].name for case in test}
    for image in list_images(description, "test") if (folder / "imagesTs").is_dir() else ():
        if image.name not in there:
            message = f"{folder / image} is listed in {folder / 'dataset.json'}, but missing"
            yield Issue("missing", remove_ending(image, ".nii.gz"), message)


def list_images(description: dict[str, Any], *parts: str) -> Iterator[Path]:
    """Yield the paths of the images that a dataset.json lists, in these parts or in all."""
    for part in parts or ("training", "validation", "test"):
        for entry in description.get(part) or ():
            yield Path(entry["image"] if isinstance(entry, dict) else str(entry))


def _find_unlisted_files(training: list[Case], folder: Path) -> Iterator[Issue]:
    """Yield an issue for each file that is not listed: the list was cut, or the file is from another task."""
    listed = {file.resolve() for case in training for file in case.files}
    for part, kind in (("imagesTr", "missing"), ("labelsTr", "extra")):
        for file in list_visible_files(folder / part, ".nii.gz"):
            if file.resolve() not in listed:
                message = f"{file} is not in the training list of {folder / 'dataset.json'}"
                yield Issue(kind, remove_ending(file, ".nii.gz"), message)


def _list_test_cases(folder: Path) -> list[Case]:
    """Return the cases of the files in imagesTs, whatever the list says: many copies lack that folder."""
    if not is_filled(folder / "imagesTs"):
        return []
    files = list_visible_files(folder / "imagesTs", ".nii.gz")
    return [Case(remove_ending(file, ".nii.gz"), (file,), role="test") for file in files]


def read_nnunet_raw(folder: Path, description: dict[str, Any]) -> Source:
    """Read a raw dataset: cases in the order of their names, those for training first."""
    _check_raw_dataset(folder, description)
    ending, issues = description["file_ending"], []
    cases = []
    for part, role in (("Tr", "train"), ("Ts", "test")):
        if part == "Tr" or is_filled(folder / "imagesTs"):
            listed, wrong = _list_part(folder, part, role, description)
            cases += listed
            issues += wrong
    issues += find_name_issues(cases)
    source = Source(
        folder.name,
        sort_channels(description["channel_names"], folder / "dataset.json"),
        description["labels"],
        ending,
        tuple(cases),
        tuple(issues),
        extra={key: value for key, value in description.items() if key not in OWN},
        notes=Notes.from_json(description),
    )
    check_labels_consecutive(source, folder / "dataset.json")
    return source


def _check_raw_dataset(folder: Path, description: Mapping[str, Any]) -> None:
    """Raise ValueError unless the folder's name and dataset.json are those that nnU-Net requires."""
    if not re.fullmatch(r"Dataset\d{3}_\w+", folder.name):
        raise ValueError(
            f"{folder} holds an nnU-Net dataset.json, but nnU-Net wants the folder named Dataset###_Name "
            f"with three digits; rename it, for example to Dataset{FALLBACK_ID}_{remove_signs(folder.name)}."
        )
    if "dataset" in description:
        raise ValueError(
            f"{folder / 'dataset.json'} lists its files under 'dataset'; only imagesTr/labelsTr can be read."
        )
    missing = set(REQUIRED) - set(description)
    if missing:
        raise ValueError(
            f"{folder / 'dataset.json'} lacks {', '.join(sorted(missing))}, which nnU-Net requires."
        )
    check_labels(description["labels"], folder / "dataset.json")


def _list_part(
    folder: Path, part: str, role: str, description: Mapping[str, Any]
) -> tuple[list[Case], list[Issue]]:
    """Return the cases of a part (Tr or Ts) without issues, and the issues of the others."""
    ending = description["file_ending"]
    images: dict[str, list[Path]] = {}
    for file in list_visible_files(folder / f"images{part}", ending):
        images.setdefault(remove_ending(file, ending)[:-5], []).append(file)
    labels = {}
    if role == "train" or is_filled(folder / f"labels{part}"):
        labels = {
            remove_ending(file, ending): file for file in list_visible_files(folder / f"labels{part}", ending)
        }
    issues = list(_find_part_issues(folder, part, description, images, labels, role))
    wrong = {issue.case for issue in issues}
    cases = [
        Case(name, tuple(images[name]), (labels[name],) if name in labels else (), role)
        for name in sorted(set(images) - wrong)
    ]
    return cases, issues


def _find_part_issues(
    folder: Path,
    part: str,
    description: Mapping[str, Any],
    images: Mapping[str, list[Path]],
    labels: Mapping[str, Path],
    role: str,
) -> Iterator[Issue]:
    """Yield issues for images without all channels or a label, and for labels without an image."""
    ending, reader = description["file_ending"], get_reader_name(description)
    n_channels = len(description["channel_names"])
    for name, files in images.items():
        n_files = _count_files(files, n_channels, reader)
        expected = [f"{name}_{channel:04d}{ending}" for channel in range(n_files)]
        if [file.name for file in files] != expected:
            message = f"case {name} of {folder} should have the images {', '.join(expected)}"
            there = ", ".join(file.name for file in files)
            yield Issue("missing", name, f"{message}; it has {there}, and the dataset {n_channels} channels")
        elif role == "train" and name not in labels:
            yield Issue("missing", name, f"{files[0]} has no label in {folder / f'labels{part}'}")
    for name in set(labels) - set(images):
        yield Issue("extra", name, f"{labels[name]} has no image in {folder / f'images{part}'}")


def _count_files(files: list[Path], n_channels: int, reader: str) -> int:
    """Return the number of files that a case needs: a picture may hold several channels as its colours."""
    if not is_picture(files[0]) or reader == TIFF or get_spacing_file(files[0], is_image=True).is_file():
        return n_channels
    try:
        held = sum(count_picture_channels(file) for file in files)
    except ValueError:  # reported when the file is opened
        return len(files)
    return max(len(files) + n_channels - held, 1)
