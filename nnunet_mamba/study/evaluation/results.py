"""Predictions in nnU-Net's folders of results, with the references, split and labels to score them by.

    nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_N/validation      (sweeps: .../seed_K/DATASET)
                                                        /crossval_results_folds_0_1_2_3_4
    a folder of nnUNetv2_predict, with its plans.json and dataset.json, scored against the test's references

References are the raw dataset's labels, or the copies that preprocessing made (gt_segmentations).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.catalogue import CONDITION
from nnunet_mamba.nnunet.dataset_json import read_dataset_json
from nnunet_mamba.nnunet.paths import parse_method
from nnunet_mamba.nnunet.splits import find_splits
from nnunet_mamba.study.evaluation.config import EvaluationConfig
from nnunet_mamba.study.evaluation.evaluate import EvaluationTask
from nnunet_mamba.study.evaluation.match import (
    MatchedCases,
    find_dataset_json,
    match_cases,
)
from nnunet_mamba.study.evaluation.splits import DEFAULT_SPLITS, ValidationFolds, read_validation_folds
from nnunet_mamba.study.evaluation.table import Origin

DATASET = re.compile(r"Dataset\d{3}_.+")
SEED = re.compile(r"seed_(\d+)")  # folder of the trainings of a sweep with one seed, above their datasets
FOLD = re.compile(r"fold_(\d+|all)")
CROSSVAL = "crossval_results_folds_"
JOINED = re.compile(CROSSVAL + r"(all|\d+(?:_\d+)*)")


@dataclass(frozen=True)
class DatasetFolders:
    """Folders of one dataset, and what a user chose for it.

    raw, preprocessed  in nnUNet_raw and nnUNet_preprocessed; either may be missing
    dataset_json       instead of the ones beside the files
    folds              to score in the folders of trained models; None: all
    """

    raw: Path | None
    preprocessed: Path | None
    dataset_json: Path | None = None
    folds: frozenset[str] | None = None

    def validation_references(self) -> Path:
        return self._first_folder("labelsTr", "gt_segmentations")

    def test_references(self) -> Path:
        return self._first_folder("labelsTs", None)

    def _first_folder(self, in_raw: str, in_preprocessed: str | None) -> Path:
        candidates = [self.raw / in_raw] if self.raw else []
        candidates += [self.preprocessed / in_preprocessed] if self.preprocessed and in_preprocessed else []
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        tried = ", ".join(map(str, candidates)) or "nothing: export nnUNet_raw"
        raise ValueError(f"There are no references; looked for {tried}. Or give PRED and REF.")

    def splits(self) -> ValidationFolds:
        """Return the folds of splits_final.json, or of nnU-Net's default if there is no such file."""
        file = find_splits(self.preprocessed, self.raw)
        return read_validation_folds(file) if file else DEFAULT_SPLITS

    def description(self, predictions: Path, references: Path) -> dict[str, Any]:
        """Return the dataset.json that numbers the labels of both folders."""
        file = self.dataset_json or find_dataset_json(predictions, references)
        if file is None:
            raise ValueError(
                f"There is no dataset.json in {predictions} or the three folders above it; "
                "give one with --dataset-json."
            )
        return read_dataset_json(file)


@dataclass(frozen=True)
class Run:
    """Folder of predictions of one trained model, and what to score it against.

    expected     cases that it should hold; None: the cases that it does hold
    expected_by  source of these cases, for messages
    folds        fold of each case, if the folder joins several folds
    """

    origin: Origin
    predictions: Path
    references: Path
    description: dict[str, Any]
    expected: tuple[str, ...] | None = None
    expected_by: str = ""
    folds: Mapping[str, str] = field(default_factory=dict)

    def match_cases(self) -> MatchedCases:
        """Return the files to score."""
        matched = match_cases(
            self.predictions,
            self.references,
            self.description["file_ending"],
            expected=self.expected,
            expected_by=self.expected_by,
        )
        if self.expected is None and self.origin.fold not in ("all", "test"):  # no split names the cases
            present = {case: file for case, file in matched.references.items() if case in matched.predictions}
            return replace(matched, references=present)
        return matched

    def make_tasks(
        self, matched: MatchedCases, config: EvaluationConfig, *, missing_as_empty: bool = False
    ) -> list[EvaluationTask]:
        """Return the tasks of the matched cases, each with its fold."""
        tasks = matched.make_tasks(config, self.origin, missing_as_empty=missing_as_empty)
        return [
            replace(task, origin=replace(task.origin, fold=self.folds.get(task.case, self.origin.fold)))
            for task in tasks
        ]


Found = tuple[list[Run], list[str]]  # what can be scored, and a sentence on each fold that cannot be


def find_runs(
    folder: Path,
    raw: Path | None,
    preprocessed: Path | None,
    dataset_json: Path | None = None,
    folds: Collection[str] | None = None,
) -> Found:
    """Return all predictions to score in or below `folder`, and a sentence on each fold that is missing, or
    that the split does not have.

    Args:
        folder: of results of a dataset, of a trained model, of a fold, of its validation, or of
            nnUNetv2_predict.
        raw, preprocessed: nnU-Net's folders of all datasets.
        dataset_json: numbers the labels; by default, the files beside predictions and references, which must
            agree.
        folds: of trained models to score; by default, all.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    origin = read_origin(folder)
    if not origin.dataset:
        raise ValueError(
            f"{folder} does not name its dataset: expected .../Dataset###_Name/..., or a plans.json."
        )
    in_raw, in_preprocessed = (parent and parent / origin.dataset for parent in (raw, preprocessed))
    chosen_folds = None if folds is None else frozenset(folds)
    dataset = DatasetFolders(in_raw, in_preprocessed, dataset_json, chosen_folds)
    if DATASET.fullmatch(folder.name) and not (folder / "plans.json").is_file():
        models = [path for path in sorted(folder.iterdir()) if path.is_dir() and parse_method(path.name)]
        if not models:
            raise ValueError(f"{folder} holds no results (TRAINER__PLANS__CONFIGURATION).")
        return _join_found([_find_model_runs(model, dataset) for model in models])
    if parse_method(folder.name):
        return _find_model_runs(folder, dataset)
    if FOLD.fullmatch(folder.name):
        folder = folder / "validation"
    if folds is not None and origin.fold and origin.fold not in folds:
        raise ValueError(f"{folder} is of fold {origin.fold}, and only {', '.join(folds)} should be scored.")
    if folder.name == "validation" and FOLD.fullmatch(folder.parent.name):
        return _find_fold_runs(folder, dataset)
    if folder.name.startswith(CROSSVAL):
        return _find_joined_runs(folder, dataset)
    references = dataset.test_references()
    description = dataset.description(folder, references)
    return [Run(replace(origin, fold="test"), folder, references, description)], []


def _find_model_runs(model: Path, dataset: DatasetFolders) -> Found:
    splits, chosen = dataset.splits(), dataset.folds
    present = {match[1]: path for path in sorted(model.iterdir()) if (match := FOLD.fullmatch(path.name))}
    present = {fold: path for fold, path in present.items() if chosen is None or fold in chosen}
    known = {fold: path for fold, path in present.items() if splits.has(fold)}
    others = [splits.describe_unknown(path, [fold]) for fold, path in present.items() if fold not in known]
    validations = {fold: path / "validation" for fold, path in known.items()}
    scored = {fold: path for fold, path in validations.items() if _has_predictions(path)}
    joined = [path for path in sorted(model.iterdir()) if JOINED.fullmatch(path.name)]
    joined = [path for path in joined if _has_predictions(path)]
    if scored or chosen is not None or not joined:
        found, done = [_find_fold_runs(path, dataset) for path in scored.values()], set(scored)
    else:
        best = max(joined, key=lambda path: len(_joined_folds(path)))
        found = [_find_joined_runs(best, dataset)]
        done = {fold for runs, _ in found if runs for fold in _joined_folds(best)}
    expected = chosen or (known if set(known) == {"all"} else {*splits.names, *known})
    missing = [
        f"{model.name}: fold_{fold} "
        + (f"has no validation; `{_command_of(model)}` makes it" if fold in known else "is missing")
        for fold in sorted(expected)
        if fold not in done
    ]
    return _join_found([*found, ([], [*others, *missing])])


def _command_of(folder: Path) -> str:
    """Return the command that predicts the validation cases of the method of a folder."""
    has_condition = CONDITION in read_origin(folder).trainer
    return "nnunet-mamba validate ..." if has_condition else "nnUNetv2_train ... --val"


def _join_found(found: Sequence[Found]) -> Found:
    return [run for runs, _ in found for run in runs], [line for _, lines in found for line in lines]


def _find_fold_runs(validation: Path, dataset: DatasetFolders) -> Found:
    origin, splits = read_origin(validation), dataset.splits()
    if not splits.has(origin.fold):
        return [], [splits.describe_unknown(validation, [origin.fold])]
    if not _has_predictions(validation):
        raise ValueError(f"{validation} holds no predictions; `{_command_of(validation)}` makes them.")
    references = dataset.validation_references()
    run = Run(origin, validation, references, dataset.description(validation, references))
    if splits.cases is not None and origin.fold != "all":
        by = f"fold {origin.fold} in {splits.source}"
        run = replace(run, expected=splits.cases[int(origin.fold)], expected_by=by)
    return [run], []


def _find_joined_runs(folder: Path, dataset: DatasetFolders) -> Found:
    """Return the run of joined folds: each case once, predicted by the network that did not train on it."""
    numbers, splits = _joined_folds(folder), dataset.splits()
    if unknown := [number for number in numbers if not splits.has(number)]:
        return [], [splits.describe_unknown(folder, unknown)]
    references = dataset.validation_references()
    run = Run(read_origin(folder), folder, references, dataset.description(folder, references))
    if numbers == ["all"]:
        return [replace(run, origin=replace(run.origin, fold="all"))], []
    if splits.cases is None:
        return [run], []
    of_case = [(case, number) for number in numbers for case in splits.cases[int(number)]]
    folds = dict(of_case)
    if twice := sorted({case for case, number in of_case if folds[case] != number}):
        return [], [
            f"{folder} is left out: {splits.source} validates {', '.join(twice)} in several folds, and it is "
            "not known which of them made the prediction. Score the folds themselves."
        ]
    by = f"the folds {', '.join(numbers)} in {splits.source}"
    return [replace(run, expected=tuple(folds), expected_by=by, folds=folds)], []


def _joined_folds(crossval: Path) -> list[str]:
    """Return the folds that a folder joins: 0, 1 of crossval_results_folds_0_1."""
    joined = JOINED.fullmatch(crossval.name)
    if joined is None:
        raise ValueError(f"{crossval} does not say which folds it joins; expected {CROSSVAL}0_1_2_3_4.")
    return joined[1].split("_")


def _has_predictions(folder: Path) -> bool:
    """Return True unless the folder is empty but for the summary.json of an interrupted validation."""
    return folder.is_dir() and any(file.suffix not in (".json", ".npz", ".pkl") for file in folder.iterdir())


def read_origin(predictions: Path, references: Path | None = None) -> Origin:
    """Return the origin of the predictions in a folder, by its path and its plans.json; fold "test" if the
    references are those of the test cases."""
    origin = Origin()
    parts = predictions.resolve().parts
    for above, part in zip(("", *parts), parts, strict=False):
        if DATASET.fullmatch(part):
            seed = SEED.fullmatch(above)
            origin = replace(origin, dataset=part, seed=seed[1] if seed else "")
        elif method := parse_method(part):
            origin = replace(origin, **method._asdict())
        elif match := FOLD.fullmatch(part):
            origin = replace(origin, fold=match[1])
    if not origin.plans and (predictions / "plans.json").is_file():
        plans_json = json.loads((predictions / "plans.json").read_text(encoding="utf-8"))
        dataset = plans_json.get("dataset_name", origin.dataset)
        origin = replace(origin, dataset=dataset, plans=plans_json.get("plans_name", ""))
    if not origin.fold and references is not None and references.resolve().name == "labelsTs":
        origin = replace(origin, fold="test")
    return origin
