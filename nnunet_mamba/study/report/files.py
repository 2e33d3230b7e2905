"""Files of a study's images, references and predictions, and the confusion of their labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_mamba.io.images import ITK
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation.label_maps import read_label_map
from nnunet_mamba.study.evaluation.labels import Label, select_scored_labels
from nnunet_mamba.study.evaluation.results import find_runs

MAX_CASES = 20  # per method for the confusion of labels, which spends its time reading label maps


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case with an image."""

    name: str
    image: Path  # the first channel
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class LabelMapFiles:
    """Files of one case; `image` is its first channel, None if it was not found."""

    case: str
    prediction: Path
    reference: Path
    image: Path | None

    def to_case_files(self) -> CaseFiles | None:
        return CaseFiles(self.case, self.image, self.reference, self.prediction) if self.image else None


@dataclass(frozen=True)
class StudyFiles:
    """Files of all methods, the labels that are scored, and the names of label values, background first."""

    maps: Mapping[Method, Mapping[str, LabelMapFiles]]
    labels: tuple[Label, ...]
    names: Mapping[int, str]


def find_study_files(results: Path, raw: Path | None, preprocessed: Path | None) -> StudyFiles:
    """Return every predicted case below `results` that has a reference. Raise ValueError if there is none."""
    runs, _ = find_runs(results, raw, preprocessed)
    maps: dict[Method, dict[str, LabelMapFiles]] = {}
    for run in runs:
        try:
            matched = run.match_cases()
        except ValueError:
            continue  # the other runs still have pictures
        method = Method(run.origin.trainer, run.origin.plans, run.origin.configuration)
        images = _find_images(raw / run.origin.dataset if raw else None, run.description["file_ending"])
        for case in sorted(set(matched.predictions) & set(matched.references)):
            files = LabelMapFiles(case, matched.predictions[case], matched.references[case], images.get(case))
            maps.setdefault(method, {})[case] = files
    if not maps:
        raise ValueError(f"Below {results} no prediction has a reference.")
    description = runs[0].description
    return StudyFiles(maps, select_scored_labels(description)[0], _name_values(description["labels"]))


def find_data_folders(results: Path) -> tuple[Path | None, Path | None]:
    """Return nnUNet_raw and nnUNet_preprocessed: from the environment, or next to the results."""
    found = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        candidates = [Path(os.environ[variable])] if os.environ.get(variable) else []
        candidates.append(results.resolve().parent.parent / variable)
        found.append(next((folder for folder in candidates if folder.is_dir()), None))
    return found[0], found[1]


def count_confusion(maps: Iterable[LabelMapFiles], values: Sequence[int]) -> tuple[np.ndarray, int]:
    """Return the voxels of each reference label (rows) by predicted label (columns), and the number of cases.

    At most `MAX_CASES` cases are read, evenly spaced among the sorted names. Other values are not counted.
    """
    chosen = sorted(maps, key=lambda each: each.case)
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


def _find_images(raw: Path | None, ending: str) -> dict[str, Path]:
    """Return the first channel of training and test images by case."""
    suffix = f"_0000{ending}"
    folders = [raw / name for name in ("imagesTr", "imagesTs")] if raw else []
    return {
        file.name.removesuffix(suffix): file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.glob(f"*{suffix}"))
    }


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
