"""nnU-Net's raw layout: Dataset###_Name with dataset.json, imagesTr/CASE_0000.., labelsTr/CASE."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import TIFF, is_picture, n_channels_of_picture, reader_of, spacing_file
from nnunet_mamba.nnunet.dataset_json import check_labels, sorted_channels
from nnunet_mamba.study.datasets.decathlon import FALLBACK_ID, is_decathlon, read_decathlon
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
