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

from nnunet_mamba.io.images import TIFF, is_picture, n_channels_of_picture, reader_of, spacing_file
from nnunet_mamba.nnunet.dataset_json import check_labels, sorted_channels
from nnunet_mamba.study.datasets.source import (
    NOTES,
    Case,
    Fault,
    Notes,
    Source,
    check_labels_consecutive,
    faults_of_names,
    fewer_than_counted,
    is_filled,
    letters_only,
    read_description,
    stem,
    visible_files,
)

CARRIED = ("description", "reference", "licence")  # from dataset.json
FALLBACK_ID = 901  # for a folder whose name carries no task number
REQUIRED = ("channel_names", "labels", "file_ending")  # by nnU-Net, in dataset.json
OWN = ("numTraining", NOTES, *REQUIRED)  # what has a place of its own in a source


def read_source(folder: Path) -> Source:
    """The data set in `folder`: a Decathlon task, or an nnU-Net raw dataset."""
    folder = Path(folder).resolve()
    description = read_description(folder)
    if is_decathlon(description):
        return read_decathlon(folder, description)
    if "channel_names" in description:
        source = read_nnunet_raw(folder, description)
        tests = {
            stem(file, source.file_ending)[:-5] for file in folder.glob(f"imagesTs/*{source.file_ending}")
        }
        faulty = {fault.case for fault in source.faults if fault.case} - tests
        known = [*source.cases, *(Case(name, ()) for name in faulty)]
        return replace(source, faults=(*source.faults, *fewer_than_counted(known, description, folder)))
    raise ValueError(
        f"{folder / 'dataset.json'} is neither a Decathlon task's (keys 'training' and 'modality') nor "
        f"nnU-Net's (key 'channel_names'); its keys are {', '.join(sorted(description)) or 'none'}."
    )


def is_decathlon(description: dict[str, Any]) -> bool:
    return "training" in description and "modality" in description


def read_decathlon(folder: Path, description: dict[str, Any]) -> Source:
    """Cases in the order of the "training" list, then the unlabelled ones of imagesTs, where it is there."""
    _require_entries(folder, description)
    training = [
        Case(stem(Path(entry["label"]), ".nii.gz"), (folder / entry["image"],), (folder / entry["label"],))
        for entry in description["training"]
    ]
    test = _test_cases(folder)
    faults = [
        *faults_of_names(training + test),
        *_missing(training, folder),
        *fewer_than_counted(training, description, folder),
        *_missing_tests(test, folder, description),
        *_unlisted(training, folder),
    ]
    absent = {fault.case for fault in faults if fault.kind == "missing"}
    source = Source(
        decathlon_name(folder, description),
        sorted_channels(description["modality"], folder / "dataset.json"),
        _invert_labels(description["labels"], folder / "dataset.json"),
        ".nii.gz",
        tuple([case for case in training if case.name not in absent] + test),
        tuple(faults),
        extra={key: description[key] for key in CARRIED if key in description},
    )
    check_labels_consecutive(source, folder / "dataset.json")
    return source


def _require_entries(folder: Path, description: dict[str, Any]) -> None:
    pairs = description["training"]
    well = all(isinstance(pair, dict) and {"image", "label"} <= set(pair) for pair in pairs)
    if not well or not isinstance(description.get("labels"), dict):
        raise ValueError(
            f'{folder / "dataset.json"} should have "labels" (number -> name) and "training", a list of '
            '{"image": ..., "label": ...}; restore it from the original download.'
        )


def _invert_labels(labels: dict[str, Any], where: Path) -> dict[str, int]:
    """number -> name, the other way round"""
    if wrong := [number for number in labels if not str(number).isdecimal()]:
        raise ValueError(
            f'The labels in {where} have {wrong[0]!r} where a Decathlon task has a number; expected {{"0": '
            '"background", "1": ...}. A dataset of nnU-Net v2 has channel_names, and no list "training".'
        )
    return {str(name): int(number) for number, name in labels.items()}


def decathlon_name(folder: Path, description: dict[str, Any]) -> str:
    """Task04_Hippocampus -> Dataset004_Hippocampus; other folder names take the name in dataset.json."""
    match = re.fullmatch(r"Task(\d{1,3})_(\w+)", folder.name)
    number, name = (
        (int(match[1]), match[2]) if match else (FALLBACK_ID, str(description.get("name") or folder.name))
    )
    return f"Dataset{number:03d}_{letters_only(name)}"


def _missing(training: list[Case], folder: Path) -> Iterator[Fault]:
    listed = f"is listed in {folder / 'dataset.json'}, but missing"
    for case in training:
        if case.images[0].name != case.labels[0].name:
            what = f"{folder / 'dataset.json'} lists {case.labels[0].name} for {case.images[0].name}"
            yield Fault("missing", case.name, f"{what}; expected an image and a label of one name")
        for file in case.files:
            if not file.is_file():
                yield Fault("missing", case.name, f"{file} {listed}")


def _missing_tests(test: list[Case], folder: Path, description: dict[str, Any]) -> Iterator[Fault]:
    """A fault for each listed image without label, where their folder is there: copies without are common."""
    there = {case.images[0].name for case in test}
    for image in listed_images(description, "test") if (folder / "imagesTs").is_dir() else ():
        if image.name not in there:
            what = f"{folder / image} is listed in {folder / 'dataset.json'}, but missing"
            yield Fault("missing", stem(image, ".nii.gz"), what)


def listed_images(description: dict[str, Any], *parts: str) -> Iterator[Path]:
    """Paths of the images that a dataset.json lists, in these parts or in all."""
    for part in parts or ("training", "validation", "test"):
        for entry in description.get(part) or ():
            yield Path(entry["image"] if isinstance(entry, dict) else str(entry))


def _unlisted(training: list[Case], folder: Path) -> Iterator[Fault]:
    """Files beside the listed ones: the list was cut, or files of another task were mixed in."""
    listed = {file.resolve() for case in training for file in case.files}
    for part, kind in (("imagesTr", "missing"), ("labelsTr", "extra")):
        for file in visible_files(folder / part, ".nii.gz"):
            if file.resolve() not in listed:
                what = f"{file} is not in the training list of {folder / 'dataset.json'}"
                yield Fault(kind, stem(file, ".nii.gz"), what)


def _test_cases(folder: Path) -> list[Case]:
    """Of the files in imagesTs, not of the list: many copies of a task come without that folder."""
    if not is_filled(folder / "imagesTs"):
        return []
    files = visible_files(folder / "imagesTs", ".nii.gz")
    return [Case(stem(file, ".nii.gz"), (file,), role="test") for file in files]


def read_nnunet_raw(folder: Path, description: dict[str, Any]) -> Source:
    """Cases in the order of their names, those for training first."""
    _check_frame(folder, description)
    ending, faults = description["file_ending"], []
    cases = []
    for part, role in (("Tr", "train"), ("Ts", "test")):
        if part == "Tr" or is_filled(folder / "imagesTs"):
            listed, wrong = _list_part(folder, part, role, description)
            cases += listed
            faults += wrong
    faults += faults_of_names(cases)
    source = Source(
        folder.name,
        sorted_channels(description["channel_names"], folder / "dataset.json"),
        description["labels"],
        ending,
        tuple(cases),
        tuple(faults),
        extra={key: value for key, value in description.items() if key not in OWN},
        notes=Notes.of(description),
    )
    check_labels_consecutive(source, folder / "dataset.json")
    return source


def _check_frame(folder: Path, description: Mapping[str, Any]) -> None:
    if not re.fullmatch(r"Dataset\d{3}_\w+", folder.name):
        raise ValueError(
            f"{folder} holds an nnU-Net dataset.json, but nnU-Net wants the folder named Dataset###_Name "
            f"with three digits; rename it, for example to Dataset{FALLBACK_ID}_{letters_only(folder.name)}."
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
) -> tuple[list[Case], list[Fault]]:
    ending = description["file_ending"]
    images: dict[str, list[Path]] = {}
    for file in visible_files(folder / f"images{part}", ending):
        images.setdefault(stem(file, ending)[:-5], []).append(file)
    labels = {}
    if role == "train" or is_filled(folder / f"labels{part}"):
        labels = {stem(file, ending): file for file in visible_files(folder / f"labels{part}", ending)}
    faults = list(_faults(folder, part, description, images, labels, role))
    wrong = {fault.case for fault in faults}
    cases = [
        Case(name, tuple(images[name]), (labels[name],) if name in labels else (), role)
        for name in sorted(set(images) - wrong)
    ]
    return cases, faults


def _faults(
    folder: Path,
    part: str,
    description: Mapping[str, Any],
    images: Mapping[str, list[Path]],
    labels: Mapping[str, Path],
    role: str,
) -> Iterator[Fault]:
    ending, reader = description["file_ending"], reader_of(description)
    n_channels = len(description["channel_names"])
    for name, files in images.items():
        n_files = _n_files(files, n_channels, reader)
        expected = [f"{name}_{channel:04d}{ending}" for channel in range(n_files)]
        if [file.name for file in files] != expected:
            what = f"case {name} of {folder} should have the images {', '.join(expected)}"
            there = ", ".join(file.name for file in files)
            yield Fault("missing", name, f"{what}; it has {there}, and the dataset {n_channels} channels")
        elif role == "train" and name not in labels:
            yield Fault("missing", name, f"{files[0]} has no label in {folder / f'labels{part}'}")
    for name in set(labels) - set(images):
        yield Fault("extra", name, f"{labels[name]} has no image in {folder / f'images{part}'}")


def _n_files(files: list[Path], n_channels: int, reader: str) -> int:
    """How many files a case needs: a picture may hold several channels as its colours."""
    if not is_picture(files[0]) or reader == TIFF or spacing_file(files[0], is_image=True).is_file():
        return n_channels
    try:
        held = sum(n_channels_of_picture(file) for file in files)
    except ValueError:  # which is told when the file is opened
        return len(files)
    return max(len(files) + n_channels - held, 1)
