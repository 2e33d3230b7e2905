"""nnU-Net's folders of results as they are: which predictions there are, and what they are scored against.

    nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_N/validation
                                                        /crossval_results_folds_0_1_2_3_4
    a folder of nnUNetv2_predict, with its plans.json and dataset.json, scored against the test's references

References are the raw dataset's labels, or the copies that preprocessing made (gt_segmentations).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.evaluation.folders import Matched, is_description, match_cases, read_description
from nnunet_mamba.evaluation.scoring import Rules, Task
from nnunet_mamba.evaluation.table import Origin

N_FOLDS = 5  # of nnU-Net's own split
DATASET = re.compile(r"Dataset\d{3}_.+")
FOLD = re.compile(r"fold_(\d+|all)")
CROSSVAL = "crossval_results_folds_"


@dataclass(frozen=True)
class Places:
    """Of one dataset; either may not exist."""

    raw: Path | None
    preprocessed: Path | None

    def validation_references(self) -> Path:
        return self._first("labelsTr", "gt_segmentations")

    def test_references(self) -> Path:
        return self._first("labelsTs", None)

    def _first(self, in_raw: str, in_preprocessed: str | None) -> Path:
        candidates = [self.raw / in_raw] if self.raw else []
        candidates += [self.preprocessed / in_preprocessed] if self.preprocessed and in_preprocessed else []
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        tried = ", ".join(map(str, candidates)) or "nothing: export nnUNet_raw"
        raise ValueError(f"There are no references; looked for {tried}. Or give PRED and REF.")

    def validation_cases(self) -> list[list[str]] | None:
        """Of each fold, where a splits_final.json says so."""
        for place in (self.preprocessed, self.raw):
            if place and (place / "splits_final.json").is_file():
                splits = json.loads((place / "splits_final.json").read_text(encoding="utf-8"))
                return [list(fold["val"]) for fold in splits]
        return None


@dataclass(frozen=True)
class Run:
    """One folder of predictions and what it is scored against.

    expected  the cases that it should hold; None: those it does hold
    folds     of single cases, where the folder joins several
    """

    origin: Origin
    predictions: Path
    references: Path
    description: dict[str, Any]
    expected: tuple[str, ...] | None = None
    folds: Mapping[str, str] = field(default_factory=dict)

    def matched(self) -> Matched:
        ending = self.description["file_ending"]
        matched = match_cases(self.predictions, self.references, ending, expected=self.expected)
        if self.expected is None and self.origin.fold not in ("all", "test"):  # which should be there?
            present = {case: file for case, file in matched.references.items() if case in matched.predictions}
            return replace(matched, references=present)
        return matched

    def tasks(self, matched: Matched, rules: Rules, *, missing_as_empty: bool = False) -> list[Task]:
        tasks = matched.tasks(rules, self.origin, missing_as_empty=missing_as_empty)
        return [
            replace(task, origin=replace(task.origin, fold=self.folds.get(task.case, self.origin.fold)))
            for task in tasks
        ]


def find_runs(folder: Path, raw: Path | None, preprocessed: Path | None) -> tuple[list[Run], list[str]]:
    """Everything that can be scored in or below `folder`, and sentences on the folds that are missing.

    `folder` is a dataset's folder of results, one of a trained model, of a fold, of validation predictions or
    of nnUNetv2_predict; `raw` and `preprocessed` are nnU-Net's folders of all datasets.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    origin = origin_of(folder)
    if not origin.dataset:
        raise ValueError(
            f"{folder} does not tell its dataset: expected .../Dataset###_Name/..., or a plans.json."
        )
    places = Places(*(place and place / origin.dataset for place in (raw, preprocessed)))
    if DATASET.fullmatch(folder.name) and not (folder / "plans.json").is_file():
        models = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.count("__") == 2]
        if not models:
            raise ValueError(f"{folder} holds no results (TRAINER__PLANS__CONFIGURATION).")
        found = [_of_model(model, places) for model in models]
        return [run for runs, _ in found for run in runs], [line for _, lines in found for line in lines]
    if folder.name.count("__") == 2:
        return _of_model(folder, places)
    if FOLD.fullmatch(folder.name):
        folder = folder / "validation"
    if folder.name == "validation" and FOLD.fullmatch(folder.parent.name):
        return [_of_fold(folder, places)], []
    if CROSSVAL in folder.name:
        return [_of_crossval(folder, places)], []
    description = read_description(_beside(folder, "dataset.json"))
    origin = replace(origin, fold="test")
    return [Run(origin, folder, places.test_references(), description)], []


def _of_model(model: Path, places: Places) -> tuple[list[Run], list[str]]:
    splits = places.validation_cases()
    numbers = [str(k) for k in range(len(splits) if splits else N_FOLDS)]
    there = {match[1]: path for path in sorted(model.iterdir()) if (match := FOLD.fullmatch(path.name))}
    scored = {fold: path / "validation" for fold, path in there.items() if _predicted(path / "validation")}
    crossval = [path for path in sorted(model.glob(CROSSVAL + "*")) if _predicted(path)]
    if crossval and not scored:
        return [_of_crossval(crossval[-1], places)], []
    wanted = there if set(there) == {"all"} else {*numbers, *there}
    missing = [
        f"{model.name}: fold_{fold} "
        + ("has no validation; `nnUNetv2_train ... --val` makes it" if fold in there else "is missing")
        for fold in sorted(wanted)
        if fold not in scored
    ]
    return [_of_fold(path, places) for path in scored.values()], missing


def _of_fold(validation: Path, places: Places) -> Run:
    if not _predicted(validation):
        raise ValueError(f"{validation} holds no predictions; `nnUNetv2_train ... --val` makes them.")
    origin = origin_of(validation)
    splits = places.validation_cases()
    known = splits is not None and origin.fold.isdecimal() and int(origin.fold) < len(splits)
    return Run(
        origin,
        validation,
        places.validation_references(),
        read_description(_beside(validation, "dataset.json")),
        expected=tuple(splits[int(origin.fold)]) if splits is not None and known else None,
    )


def _of_crossval(folder: Path, places: Places) -> Run:
    """Every case once, validated by the network that had not seen it."""
    numbers = re.findall(r"\d+", folder.name.partition(CROSSVAL)[2])
    splits = places.validation_cases()
    folds = {case: number for number in numbers for case in splits[int(number)]} if splits else {}
    return Run(
        origin_of(folder),
        folder,
        places.validation_references(),
        read_description(_beside(folder, "dataset.json")),
        expected=tuple(folds) or None,
        folds=folds,
    )


def _predicted(folder: Path) -> bool:
    """More than the summary.json of an interrupted validation."""
    return folder.is_dir() and any(file.suffix not in (".json", ".npz", ".pkl") for file in folder.iterdir())


def origin_of(folder: Path) -> Origin:
    """What a folder's place and its plans.json tell of the predictions in it."""
    origin = Origin()
    for part in folder.resolve().parts:
        if DATASET.fullmatch(part):
            origin = replace(origin, dataset=part)
        elif part.count("__") == 2:
            trainer, plans, configuration = part.split("__")
            origin = replace(origin, trainer=trainer, plans=plans, configuration=configuration)
        elif match := FOLD.fullmatch(part):
            origin = replace(origin, fold=match[1])
    if not origin.plans and (folder / "plans.json").is_file():
        plans_json = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
        dataset = plans_json.get("dataset_name", origin.dataset)
        origin = replace(origin, dataset=dataset, plans=plans_json.get("plans_name", ""))
    return origin


def dataset_json_near(predictions: Path, references: Path) -> Path | None:
    """nnU-Net's, beside the predictions or up to three levels above, beside the references or one above.

    Files of this name that other releases bring along are passed over.
    """
    above = [predictions, *list(predictions.resolve().parents)[:3], references, references.resolve().parent]
    files = (folder / "dataset.json" for folder in above)
    return next((file for file in files if file.is_file() and is_description(file)), None)


def _beside(folder: Path, name: str) -> Path:
    found = next(
        (place / name for place in (folder, *list(folder.parents)[:3]) if (place / name).is_file()), None
    )
    if found is None:
        raise ValueError(f"There is no {name} in {folder} or the three folders above it.")
    return found
