"""Files of a study's images, references and predictions, and the confusion of their labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mamba.io.images import ITK
from nnunet_mamba.nnunet.dataset_json import read_dataset_json
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation.label_maps import read_label_map
from nnunet_mamba.study.evaluation.labels import Label, select_scored_labels
from nnunet_mamba.study.evaluation.match import MatchedCases, find_dataset_json, match_cases
from nnunet_mamba.study.evaluation.results import find_runs

MAX_CASES = 20  # per method for the confusion of labels, which spends its time reading label maps


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case; `image` is its first channel, None if it was not found."""

    case: str
    image: Path | None
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class PredictedCases:
    """Files of all methods, the labels that are scored, and the names of label values, background first."""

    cases: Mapping[Method, Mapping[str, CaseFiles]]
    labels: tuple[Label, ...]
    names: Mapping[int, str]

    @property
    def has_images(self) -> bool:
        return any(files.image for own in self.cases.values() for files in own.values())


def find_predicted_cases(results: Path, raw: Path | None, preprocessed: Path | None) -> PredictedCases:
    """Return every predicted case below `results` that has a reference. Raise ValueError if there is none."""
    runs, _ = find_runs(results, raw, preprocessed)
    cases: dict[Method, dict[str, CaseFiles]] = {}
    for run in runs:
        try:
            matched = run.match_cases()
        except ValueError:
            continue  # the other runs still have pictures
        folders = [raw / run.origin.dataset / name for name in ("imagesTr", "imagesTs")] if raw else []
        found = _list_cases(matched, folders, run.description["file_ending"])
        cases.setdefault(run.origin.method, {}).update(found)
    if not any(cases.values()):
        raise ValueError(f"Below {results} no prediction has a reference.")
    return _build_predicted_cases(cases, runs[0].description)


def match_folders(
    predictions: Mapping[Method, Path], references: Path, images: Path | None
) -> PredictedCases:
    """Return the cases in each method's folder of predictions that have a reference.

    The images of labelsTs are looked for in imagesTs beside it, unless `images` is another folder.
    """
    images = images or references.parent / references.name.replace("labels", "images")
    cases = {}
    for method, folder in predictions.items():
        file = find_dataset_json(folder, references)
        if file is None:
            raise ValueError(
                f"There is no dataset.json beside {folder} or {references} to number their labels."
            )
        description = read_dataset_json(file)
        matched = match_cases(folder, references, description["file_ending"])
        cases[method] = _list_cases(matched, [images], description["file_ending"])
    return _build_predicted_cases(cases, description)


def _list_cases(matched: MatchedCases, image_folders: Iterable[Path], ending: str) -> dict[str, CaseFiles]:
    """Return the cases that have both label maps, by name."""
    suffix = f"_0000{ending}"
    images = {
        file.name.removesuffix(suffix): file
        for folder in image_folders
        if folder.is_dir()
        for file in sorted(folder.glob(f"*{suffix}"))
    }
    return {
        case: CaseFiles(case, images.get(case), matched.references[case], matched.predictions[case])
        for case in sorted(set(matched.predictions) & set(matched.references))
    }


def _build_predicted_cases(
    cases: Mapping[Method, Mapping[str, CaseFiles]], description: dict[str, Any]
) -> PredictedCases:
    return PredictedCases(cases, select_scored_labels(description)[0], _name_values(description["labels"]))


def find_data_folders(results: Path) -> tuple[Path | None, Path | None]:
    """Return nnUNet_raw and nnUNet_preprocessed: from the environment, or next to the results."""
    found = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        candidates = [Path(os.environ[variable])] if os.environ.get(variable) else []
        candidates.append(results.resolve().parent.parent / variable)
        found.append(next((folder for folder in candidates if folder.is_dir()), None))
    return found[0], found[1]


def count_confusion(cases: Iterable[CaseFiles], values: Sequence[int]) -> tuple[np.ndarray, int]:
    """Return the voxels of each reference label (rows) by predicted label (columns), and the number of cases.

    At most `MAX_CASES` cases are read, evenly spaced among the sorted names. Other values are not counted.
    """
    chosen = sorted(cases, key=lambda each: each.case)
    if len(chosen) > MAX_CASES:
        chosen = [chosen[i * len(chosen) // MAX_CASES] for i in range(MAX_CASES)]
    n = len(values)
    total = np.zeros((n, n), np.int64)
    for each in chosen:
        # evaluation found them on one grid, but their voxels may be stored in different orders
        one, other = (read_label_map(file, ITK) for file in (each.reference, each.prediction))
        ordered = one.grid.reorder(other.array, other.grid)
        reference, prediction = (_to_indices(array, values) for array in (one.array, ordered))
        if reference.shape != prediction.shape:
            raise ValueError(f"{each.prediction} has another grid than {each.reference}.")
        known = (reference >= 0) & (prediction >= 0)
        total += np.bincount(reference[known] * n + prediction[known], minlength=n * n).reshape(n, n)
    return total, len(chosen)


def _to_indices(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return the index of each voxel's value in `values`; -1 for other values."""
    index = np.full(int(max(array.max(), max(values))) + 1, -1, np.int64)
    index[list(values)] = np.arange(len(values))
    return index[array]


def _name_values(labels: Mapping[str, object]) -> dict[int, str]:
    """Return the names of label values; a value that only regions contain is named by its number."""
    values: dict[int, str] = {}
    for name, value in labels.items():
        each = value if isinstance(value, list) else [value]
        if name == "ignore":
            continue
        for v in map(int, each):
            values[v] = str(name) if len(each) == 1 else values.get(v, f"label {v}")
    return dict(sorted(values.items()))
