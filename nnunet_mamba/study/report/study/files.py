"""Where a study's images, references and predictions are; label maps against each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_mamba.io.images import ITK
from nnunet_mamba.study.evaluation.label_maps import read_label_map
from nnunet_mamba.study.evaluation.labels import Label, scored_labels
from nnunet_mamba.study.evaluation.results import find_runs
from nnunet_mamba.study.report.content import CaseFiles
from nnunet_mamba.study.statistics.methods import Method

MAX_CASES = 20  # of a method, for the confusion of labels: reading label maps is what takes time


@dataclass(frozen=True)
class LabelMaps:
    """Of one case; `image` is its first channel, None where it was not found."""

    case: str
    prediction: Path
    reference: Path
    image: Path | None

    def as_files(self) -> CaseFiles | None:
        return CaseFiles(self.case, self.image, self.reference, self.prediction) if self.image else None


@dataclass(frozen=True)
class Files:
    """`labels` are those that are scored; `names` those of single label values, background first."""

    maps: Mapping[Method, Mapping[str, LabelMaps]]
    labels: tuple[Label, ...]
    names: Mapping[int, str]


def find_files(results: Path, raw: Path | None, preprocessed: Path | None) -> Files:
    """Every predicted case below `results` that has a reference. ValueError if there is nothing."""
    runs, _ = find_runs(results, raw, preprocessed)
    maps: dict[Method, dict[str, LabelMaps]] = {}
    for run in runs:
        try:
            matched = run.match_cases()
        except ValueError:
            continue  # of the other runs there are still pictures
        method = Method(run.origin.trainer, run.origin.plans, run.origin.configuration)
        images = _images(raw / run.origin.dataset if raw else None, run.description["file_ending"])
        for case in sorted(set(matched.predictions) & set(matched.references)):
            files = LabelMaps(case, matched.predictions[case], matched.references[case], images.get(case))
            maps.setdefault(method, {})[case] = files
    if not maps:
        raise ValueError(f"Below {results} no prediction has a reference.")
    description = runs[0].description
    return Files(maps, scored_labels(description)[0], _names(description["labels"]))


def places(results: Path) -> tuple[Path | None, Path | None]:
    """nnU-Net's folders of raw and preprocessed datasets: by the environment, or beside the results."""
    found = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        candidates = [Path(os.environ[variable])] if os.environ.get(variable) else []
        candidates.append(results.resolve().parent.parent / variable)
        found.append(next((place for place in candidates if place.is_dir()), None))
    return found[0], found[1]


def confusion(maps: Iterable[LabelMaps], values: Sequence[int]) -> tuple[np.ndarray, int]:
    """Voxels of each reference label (rows) by predicted label (columns), and the number of cases.

    Of many cases, `MAX_CASES` evenly among their names. Voxels of other values are not counted.
    """
    chosen = sorted(maps, key=lambda each: each.case)
    if len(chosen) > MAX_CASES:
        chosen = [chosen[i * len(chosen) // MAX_CASES] for i in range(MAX_CASES)]
    n = len(values)
    total = np.zeros((n, n), np.int64)
    for each in chosen:
        # evaluation found them on one grid; ITK's view tells whether they are stored in one order
        one, other = (read_label_map(file, ITK) for file in (each.reference, each.prediction))
        ordered = one.grid.reorder(other.array, other.grid)
        reference, prediction = (_indices(array, values) for array in (one.array, ordered))
        if reference.shape != prediction.shape:
            raise ValueError(f"{each.prediction} has another grid than {each.reference}.")
        known = (reference >= 0) & (prediction >= 0)
        total += np.bincount(reference[known] * n + prediction[known], minlength=n * n).reshape(n, n)
    return total, len(chosen)


def _indices(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The place of each voxel's value in `values`; -1 for others."""
    place = np.full(int(max(array.max(), max(values))) + 1, -1, np.int64)
    place[list(values)] = np.arange(len(values))
    return place[array]


def _images(raw: Path | None, ending: str) -> dict[str, Path]:
    """Case -> first channel, of training and test images."""
    suffix = f"_0000{ending}"
    folders = [raw / name for name in ("imagesTr", "imagesTs")] if raw else []
    return {
        file.name.removesuffix(suffix): file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.glob(f"*{suffix}"))
    }


def _names(labels: Mapping[str, object]) -> dict[int, str]:
    """Names of the values; a value that only regions have keeps its number."""
    values: dict[int, str] = {}
    for name, value in labels.items():
        each = value if isinstance(value, list) else [value]
        if name == "ignore":
            continue
        for v in map(int, each):
            values[v] = str(name) if len(each) == 1 else values.get(v, f"label {v}")
    return dict(sorted(values.items()))
