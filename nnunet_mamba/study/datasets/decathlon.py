"""A Medical Segmentation Decathlon task: dataset.json with "training" pairs and "modality"; 3D images, or 4D
ones with the channels last."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.dataset_json import sorted_channels
from nnunet_mamba.study.datasets.source import (
    Case,
    Fault,
    Source,
    check_labels_consecutive,
    faults_of_names,
    fewer_than_counted,
    is_filled,
    letters_only,
    stem,
    visible_files,
)

CARRIED = ("description", "reference", "licence")  # from dataset.json
FALLBACK_ID = 901  # for a folder whose name carries no task number


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
        _labels(description["labels"], folder / "dataset.json"),
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


def _labels(labels: dict[str, Any], where: Path) -> dict[str, int]:
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
