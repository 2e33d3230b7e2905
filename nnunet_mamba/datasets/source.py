"""Reading a labelled data set as people have it: a Decathlon task, or nnU-Net's own layout.

Decathlon     dataset.json with "training" pairs and "modality"; 3D images, or 4D ones with the channels last.
nnU-Net raw   Dataset###_Name: dataset.json with "channel_names", imagesTr/CASE_0000.., labelsTr/CASE.

Only the listing happens here, with every complaint that file names allow; `raw.py` opens the images.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FALLBACK_ID = 901  # for a Decathlon folder whose name carries no task number
CARRIED_KEYS = ("regions_class_order", "overwrite_image_reader_writer")  # of nnU-Net's dataset.json


@dataclass(frozen=True)
class Case:
    """One labelled scan: one image file per channel, or a single 4D file that holds them all."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Source:
    """A labelled data set, described in nnU-Net's words."""

    name: str  # Dataset###_Name
    channel_names: dict[str, str]
    labels: dict[str, Any]  # name -> integer, or a list of integers for a region
    file_ending: str
    cases: tuple[Case, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def label_values(self) -> frozenset[int]:
        """Every value that a label file may hold."""
        values: set[int] = set()
        for value in self.labels.values():
            values.update(value if isinstance(value, list | tuple) else (value,))
        return frozenset(int(value) for value in values)


def read_source(folder: Path) -> Source:
    """The data set in `folder`, of whichever of the two layouts it has."""
    folder = Path(folder).resolve()
    description = read_description(folder)
    if "training" in description and "modality" in description:
        source = read_decathlon(folder, description)
    elif "channel_names" in description:
        source = read_nnunet_raw(folder, description)
    else:
        raise ValueError(
            f"{folder / 'dataset.json'} is neither a Decathlon task's (keys 'training' and 'modality') nor "
            f"nnU-Net's (key 'channel_names'); its keys are {', '.join(sorted(description)) or 'none'}."
        )
    check_labels_consecutive(source, folder)
    return source


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


def read_decathlon(folder: Path, description: dict[str, Any]) -> Source:
    """Cases in the order of the "training" list."""
    pairs = [(folder / entry["image"], folder / entry["label"]) for entry in description["training"]]
    listed = {
        "images": {image.name for image, _ in pairs},
        "labels": {label.name for _, label in pairs},
    }
    for kind in ("images", "labels"):
        present = {file.name for file in visible_files(folder / f"{kind}Tr", ".nii.gz")}
        other = "label" if kind == "images" else "image"
        refuse(
            listed[kind] - present,
            f"listed in {folder / 'dataset.json'} but missing from {kind}Tr",
            "Fetch them, or take them off the list.",
        )
        refuse(
            present - listed[kind],
            f"in {folder / (kind + 'Tr')} without a {other} in the training list",
            "Add the pair to dataset.json, or move the file away.",
        )
    cases = tuple(Case(stem(label, ".nii.gz"), (image,), label) for image, label in pairs)
    labels = {str(name): int(value) for value, name in description["labels"].items()}
    channels = {str(key): str(name) for key, name in description["modality"].items()}
    return Source(decathlon_name(folder, description), channels, labels, ".nii.gz", cases)


def decathlon_name(folder: Path, description: dict[str, Any]) -> str:
    """Task04_Hippocampus -> Dataset004_Hippocampus; other folder names take the name in dataset.json."""
    match = re.fullmatch(r"Task(\d{1,3})_(\w+)", folder.name)
    number, name = (
        (int(match[1]), match[2]) if match else (FALLBACK_ID, str(description.get("name") or folder.name))
    )
    return f"Dataset{number:03d}_{letters_only(name)}"


def read_nnunet_raw(folder: Path, description: dict[str, Any]) -> Source:
    """Cases in the order of their names."""
    if not re.fullmatch(r"Dataset\d{3}_\w+", folder.name):
        raise ValueError(
            f"{folder} holds an nnU-Net dataset.json, but nnU-Net wants the folder named Dataset###_Name "
            f"with three digits; rename it, for example to Dataset{FALLBACK_ID}_{letters_only(folder.name)}."
        )
    if "dataset" in description:
        raise ValueError(
            f"{folder / 'dataset.json'} lists its files under 'dataset'; only imagesTr/labelsTr can be read."
        )
    missing = {"labels", "file_ending"} - set(description)
    if missing:
        raise ValueError(
            f"{folder / 'dataset.json'} lacks {', '.join(sorted(missing))}, which nnU-Net requires."
        )
    ending, n_channels = description["file_ending"], len(description["channel_names"])
    labels = {stem(file, ending): file for file in visible_files(folder / "labelsTr", ending)}
    images: dict[str, list[Path]] = {}
    for file in visible_files(folder / "imagesTr", ending):
        images.setdefault(stem(file, ending)[:-5], []).append(file)
    refuse(
        set(images) - set(labels),
        "cases with an image but without a label in labelsTr",
        "Add the label, or remove the image.",
    )
    refuse(
        set(labels) - set(images),
        "cases with a label but without an image in imagesTr",
        "Add the image, or remove the label.",
    )
    for name, files in images.items():
        expected = [f"{name}_{channel:04d}{ending}" for channel in range(n_channels)]
        if [file.name for file in files] != expected:
            raise ValueError(
                f"Case {name} of {folder} should have the images {', '.join(expected)}; "
                f"it has {', '.join(file.name for file in files)}."
            )
    cases = tuple(Case(name, tuple(images[name]), labels[name]) for name in sorted(labels))
    extra = {key: description[key] for key in CARRIED_KEYS if key in description}
    return Source(folder.name, description["channel_names"], description["labels"], ending, cases, extra)


def check_labels_consecutive(source: Source, folder: Path) -> None:
    """nnU-Net numbers its outputs 0, 1, 2, ...: so must the labels be numbered."""
    values = sorted(source.label_values)
    if values != list(range(len(values))):
        raise ValueError(
            f"The labels in {folder / 'dataset.json'} have the values {values}; nnU-Net needs 0, 1, 2, ... "
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


def letters_only(name: str) -> str:
    """`name` without signs: nnU-Net parses folder names by their underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "", name) or "Data"


def stem(file: Path, ending: str) -> str:
    return file.name[: -len(ending)]


def refuse(names: set[str], what: str, remedy: str) -> None:
    """Raise, naming at most five of `names`, unless there are none."""
    if names:
        shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(f"{len(names)} {what}: {shown}. {remedy}")
