"""Scoring a folder of predictions against a folder of references, matched by name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mamba.evaluation.label_maps import LabelMap, read_label_map, require_same_grid
from nnunet_mamba.evaluation.labels import Label, scored_labels
from nnunet_mamba.evaluation.metrics import dice, hd95_mm
from nnunet_mamba.evaluation.table import Score


def evaluate_folder(predictions: Path, references: Path, dataset_json: Path) -> list[Score]:
    """Dice and HD95 of every case in `references`, which must all have been predicted.

    Both folders hold CASE + the file_ending of `dataset_json`, whose labels or regions are scored.
    """
    description: dict[str, Any] = json.loads(Path(dataset_json).read_text(encoding="utf-8"))
    labels, ignore = scored_labels(description)
    scores: list[Score] = []
    for case in matched_cases(Path(predictions), Path(references), description["file_ending"]):
        name = case + description["file_ending"]
        scores += score_case(
            case, read_label_map(predictions / name), read_label_map(references / name), labels, ignore
        )
    return scores


def matched_cases(predictions: Path, references: Path, ending: str) -> list[str]:
    """Names of the cases in both folders; a case in only one of them is refused by name."""
    found = {folder: case_names(folder, ending) for folder in (predictions, references)}
    missing = sorted(found[references] - found[predictions])
    extra = sorted(found[predictions] - found[references])
    if missing:
        raise ValueError(
            f"{predictions} lacks predictions of {', '.join(missing)}; predict them before scoring."
        )
    if extra:
        raise ValueError(
            f"{predictions} has predictions without a reference in {references}: {', '.join(extra)}."
        )
    return sorted(found[references])


def case_names(folder: Path, ending: str) -> set[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    names = {file.name[: -len(ending)] for file in folder.iterdir() if file.name.endswith(ending)}
    if not names:
        raise ValueError(f"{folder} holds no file that ends in {ending!r}.")
    return names


def score_case(
    case: str, prediction: LabelMap, reference: LabelMap, labels: Sequence[Label], ignore: int | None = None
) -> list[Score]:
    """Both metrics of each label; voxels that the reference marks as `ignore` belong to no mask."""
    require_same_grid(prediction, reference)
    counted = np.ones(reference.array.shape, bool) if ignore is None else reference.array != ignore
    scores = []
    for label in labels:
        p = label.mask(prediction.array) & counted
        r = label.mask(reference.array) & counted
        distance = hd95_mm(p, r, spacing_mm=reference.spacing_mm, diagonal_mm=reference.diagonal_mm)
        for metric, value in (("dice", dice(p, r)), ("hd95", distance)):
            n_voxels = int(np.count_nonzero(r))
            scores.append(Score(case, label.number, label.name, metric, value, n_voxels, which_empty(p, r)))
    return scores


def which_empty(prediction: np.ndarray, reference: np.ndarray) -> str:
    empty = {"prediction": not prediction.any(), "reference": not reference.any()}
    return "both" if all(empty.values()) else next((name for name, is_empty in empty.items() if is_empty), "")
