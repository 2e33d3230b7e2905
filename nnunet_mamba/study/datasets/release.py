"""Readers of downloaded releases: from folders to a `Source`, by the data set's specification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import is_picture
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.dataset_json import get_label_values, normalize_name, sort_channels
from nnunet_mamba.study.datasets.layout import (
    DEEPEST_ROOT,
    Files,
    describe_pattern,
    find_missing_listed,
    has_images,
    list_tree,
    read_parts,
)
from nnunet_mamba.study.datasets.readers import is_decathlon, list_images, read_decathlon
from nnunet_mamba.study.datasets.source import (
    Case,
    Issue,
    Notes,
    Source,
    collect_label_values,
    read_description,
)
from nnunet_mamba.study.datasets.specs import DATASETS, DatasetSpec, Layout


def read_release(name: str, folders: Sequence[Path]) -> Source:
    """Read the release `name` (of `DATASETS`) from one or more folders, wherever its layout begins.

    ValueError if the layout is not found, or found more than once.
    """
    spec = DATASETS[name]
    read = _read_layout(spec, folders) if spec.layouts else _read_task(spec, folders)
    source = replace(_apply_spec(spec, read), notes=Notes(name, spec.group))
    return spec.annotate(source) if spec.annotate else source


def _read_layout(spec: DatasetSpec, folders: Sequence[Path]) -> Source:
    """Read the cases of the first layout of the specification that the folders have."""
    files, subfolders = list_tree(folders)
    named_files, named_subfolders = list_tree(folders, named=True)
    all_files, subfolders = [*files, *named_files], [*subfolders, *named_subfolders]
    for layout in spec.layouts:
        if any(has_images(part, all_files) for part in layout if part.role == "train"):
            cases, issues = read_parts(layout, all_files, subfolders)
            found = (file for folder in folders for file in _find_descriptions(folder))
            descriptions = {file: read_description(file.parent) for file in found}
            for file, description in descriptions.items():
                _check_numbers(spec, description, file)
            reported = {issue.case for issue in issues}
            listed = _find_missing_in_lists(layout, descriptions)
            issues += [issue for issue in listed if issue.case not in reported]
            unmatched = _find_unmatched(cases, files)
            return Source("", {}, {}, spec.file_ending, tuple(cases), tuple(issues), unmatched=unmatched)
    expected = " or ".join(describe_pattern(layout[0].images[0]) for layout in spec.layouts)
    raise ValueError(
        f"{_join_paths(folders)} does not hold {spec.title}: expected {expected}, at its top or some folders "
        f"below; it holds {join_names(sorted(path for path, _ in files)) or 'no files'}. "
        f"The release: {spec.obtain}"
    )


def _check_numbers(spec: DatasetSpec, description: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError if the release's dataset.json numbers a label or channel unlike the specification."""
    known, theirs = (
        get_label_values({"labels": spec.stored_labels or spec.labels}),
        get_label_values(description),
    )
    places = {normalize_name(name): place for place, name in enumerate(spec.channels or ())}
    channels = sort_channels(description.get("modality") or {}, file)
    recode = spec.pixels.recode
    wrong = [
        f"the label {name!r} as {value}"
        for name, value in theirs.items()
        if name in known and known[name] != recode.get(value, value)
    ] + [
        f"the channel {name!r} as {place}"
        for place, name in enumerate(channels.values())
        if places.get(normalize_name(name), place) != place
    ]
    if wrong:
        raise ValueError(
            f"{file} has {', '.join(wrong)}, unlike {spec.title} as it is known. If it is another data set, "
            "describe it to nnU-Net by yourself; if its numbers are wrong, correct them."
        )


def _find_missing_in_lists(layout: Layout, descriptions: Mapping[Path, dict[str, Any]]) -> Iterator[Issue]:
    """Yield issues for missing cases that a dataset.json of the release lists."""
    for file, description in descriptions.items():
        if is_decathlon(description):
            yield from find_missing_listed(layout, list_images(description), file.parent)


def _find_unmatched(cases: Sequence[Case], files: Files) -> tuple[Path, ...]:
    """Return images beside those of the cases that match no pattern: perhaps misnamed, perhaps not wanted."""
    used = {file for case in cases for file in case.files}
    parents = {file.parent for file in used}
    return tuple(
        file
        for _, file in files
        if file.parent in parents and file not in used and (is_picture(file) or ".nii" in file.name)
    )


def _read_task(spec: DatasetSpec, folders: Sequence[Path]) -> Source:
    """Read the only Decathlon task in the folders, which must be that of the specification."""
    found = [file.parent for folder in folders for file in _find_descriptions(folder)]
    tasks = [(folder, read_description(folder)) for folder in found]
    tasks = [(folder, description) for folder, description in tasks if is_decathlon(description)]
    if len(tasks) != 1:
        names = f"{len(tasks)}: {_join_paths([folder for folder, _ in tasks])}" if tasks else "none"
        raise ValueError(
            f"Expected one Decathlon task, a folder with dataset.json, imagesTr and labelsTr, in "
            f"{_join_paths(folders)}; there is {names}. The release: {spec.obtain}"
        )
    _check_numbers(spec, tasks[0][1], tasks[0][0] / "dataset.json")
    source = read_decathlon(*tasks[0])
    if spec.labels and source.label_values != collect_label_values(spec.labels):
        raise ValueError(f"{tasks[0][0]} is {source.name}, with other labels than {spec.title}.")
    return source


def _find_descriptions(folder: Path) -> list[Path]:
    """Return the dataset.json files of least depth."""
    for depth in range(DEEPEST_ROOT):
        found = sorted(folder.resolve().glob("*/" * depth + "dataset.json"))
        if found:
            return found
    return []


def _apply_spec(spec: DatasetSpec, source: Source) -> Source:
    """Return the source with the specification's entries in place of the release's."""
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


def _join_paths(folders: Sequence[Path]) -> str:
    return join_names(sorted(map(str, folders)))
