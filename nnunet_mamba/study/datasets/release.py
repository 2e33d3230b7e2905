"""A downloaded release -> `Source`, by the data set's spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import is_picture
from nnunet_mamba.nnunet.dataset_json import label_values, plain_name, sorted_channels
from nnunet_mamba.study.datasets.layout import (
    DEEPEST_ROOT,
    Files,
    fits,
    list_tree,
    missing_of_list,
    read_parts,
    shown,
)
from nnunet_mamba.study.datasets.readers import is_decathlon, listed_images, read_decathlon
from nnunet_mamba.study.datasets.source import (
    Case,
    Fault,
    Notes,
    Source,
    read_description,
    some,
)
from nnunet_mamba.study.datasets.specs import DATASETS, DatasetSpec, Layout


def read_release(name: str, folders: Sequence[Path]) -> Source:
    """The cases of the release `name` (of `DATASETS`) in one or more folders, wherever its layout begins.

    ValueError if the layout is not there, or there more than once.
    """
    spec = DATASETS[name]
    read = _read_layout(spec, folders) if spec.layouts else _read_task(spec, folders)
    source = replace(_described(spec, read), notes=Notes(name, spec.group))
    return spec.annotate(source) if spec.annotate else source


def _read_layout(spec: DatasetSpec, folders: Sequence[Path]) -> Source:
    files, below = list_tree(folders)
    named_files, named_below = list_tree(folders, named=True)
    either_way, below = [*files, *named_files], [*below, *named_below]
    for layout in spec.layouts:
        if any(fits(part, either_way) for part in layout if part.role == "train"):
            cases, faults = read_parts(layout, either_way, below)
            beside = (file for folder in folders for file in _descriptions(folder))
            descriptions = {file: read_description(file.parent) for file in beside}
            for file, description in descriptions.items():
                _check_meaning(spec, description, file)
            told = {fault.case for fault in faults}
            faults += [fault for fault in _of_lists(layout, descriptions) if fault.case not in told]
            return Source(
                "", {}, {}, spec.file_ending, tuple(cases), tuple(faults), strays=_strays(cases, files)
            )
    expected = " or ".join(shown(layout[0].images[0]) for layout in spec.layouts)
    raise ValueError(
        f"{_given(folders)} does not hold {spec.title}: expected {expected}, at its top or some folders "
        f"below; it holds {some(path for path, _ in files) or 'no files'}. The release: {spec.obtain}"
    )


def _check_meaning(spec: DatasetSpec, description: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError for a dataset.json of the release that gives another number to a label or channel of
    the specification."""
    known, theirs = label_values({"labels": spec.stored_labels or spec.labels}), label_values(description)
    places = {plain_name(name): place for place, name in enumerate(spec.channels or ())}
    channels = sorted_channels(description.get("modality") or {}, file)
    recode = spec.pixels.recode
    wrong = [
        f"the label {name!r} as {value}"
        for name, value in theirs.items()
        if name in known and known[name] != recode.get(value, value)
    ] + [
        f"the channel {name!r} as {place}"
        for place, name in enumerate(channels.values())
        if places.get(plain_name(name), place) != place
    ]
    if wrong:
        raise ValueError(
            f"{file} has {', '.join(wrong)}, unlike {spec.title} as it is known. If it is another data set, "
            "describe it to nnU-Net by yourself; if its numbers are wrong, correct them."
        )


def _of_lists(layout: Layout, descriptions: Mapping[Path, dict[str, Any]]) -> Iterator[Fault]:
    """Cases that a dataset.json of the release lists, and that are not there."""
    for file, description in descriptions.items():
        if is_decathlon(description):
            yield from missing_of_list(layout, listed_images(description), file.parent)


def _strays(cases: Sequence[Case], files: Files) -> tuple[Path, ...]:
    """Images beside those of the cases that no pattern fits: perhaps misnamed, perhaps not wanted."""
    used = {file for case in cases for file in case.files}
    beside = {file.parent for file in used}
    return tuple(
        file
        for _, file in files
        if file.parent in beside and file not in used and (is_picture(file) or ".nii" in file.name)
    )


def _read_task(spec: DatasetSpec, folders: Sequence[Path]) -> Source:
    """The one Decathlon task in the folders, which must be the one of the spec."""
    found = [file.parent for folder in folders for file in _descriptions(folder)]
    tasks = [(folder, read_description(folder)) for folder in found]
    tasks = [(folder, description) for folder, description in tasks if is_decathlon(description)]
    if len(tasks) != 1:
        names = f"{len(tasks)}: {some(str(folder) for folder, _ in tasks)}" if tasks else "none"
        raise ValueError(
            f"Expected one Decathlon task, a folder with dataset.json, imagesTr and labelsTr, in "
            f"{_given(folders)}; there is {names}. The release: {spec.obtain}"
        )
    _check_meaning(spec, tasks[0][1], tasks[0][0] / "dataset.json")
    source = read_decathlon(*tasks[0])
    if spec.labels and source.label_values != _values(spec.labels):
        raise ValueError(f"{tasks[0][0]} is {source.name}, with other labels than {spec.title}.")
    return source


def _descriptions(folder: Path) -> list[Path]:
    """The dataset.json of least depth."""
    for depth in range(DEEPEST_ROOT):
        found = sorted(folder.resolve().glob("*/" * depth + "dataset.json"))
        if found:
            return found
    return []


def _described(spec: DatasetSpec, source: Source) -> Source:
    """What the spec says takes the place of what the release says."""
    changes: dict[str, Any] = {"pixels": spec.pixels}
    if spec.number is not None:
        changes["name"] = f"Dataset{spec.number:03d}_{spec.folder}"
    if spec.channels is not None:
        changes["channel_names"] = {str(k): name for k, name in enumerate(spec.channels)}
    if spec.labels is not None:
        changes["labels"] = spec.labels
    extra = {"description": spec.title, "reference": spec.obtain, "licence": spec.licence, **source.extra}
    if spec.reader is not None:
        extra["overwrite_image_reader_writer"] = spec.reader
    if spec.regions_class_order is not None:
        extra["regions_class_order"] = list(spec.regions_class_order)
    return replace(source, extra=extra, **changes)


def _values(labels: Mapping[str, Any]) -> set[int]:
    return Source("", {}, labels, "", ()).label_values  # type: ignore[return-value]


def _given(folders: Sequence[Path]) -> str:
    return some(map(str, folders))
