"""nnU-Net's folders of results as they are: which predictions there are, and what they are scored against.

    nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_N/validation
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

from nnunet_mamba.study.evaluation.folders import (
    Matched,
    is_description,
    match_cases,
    read_description,
    require_no_contradiction,
    require_same_numbering,
)
from nnunet_mamba.study.evaluation.scoring import Rules, Task
from nnunet_mamba.study.evaluation.splits import NNUNETS_OWN, Splits, read_splits
from nnunet_mamba.study.evaluation.table import Origin

DATASET = re.compile(r"Dataset\d{3}_.+")
FOLD = re.compile(r"fold_(\d+|all)")
CROSSVAL = "crossval_results_folds_"
JOINED = re.compile(CROSSVAL + r"(all|\d+(?:_\d+)*)")


@dataclass(frozen=True)
class Places:
    """Of one dataset; either may not exist. `dataset_json` holds in place of those beside the files; `folds`
    are those to score in the folders of trained models, None: all."""

    raw: Path | None
    preprocessed: Path | None
    dataset_json: Path | None = None
    folds: frozenset[str] | None = None

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

    def splits(self) -> Splits:
        """Those of splits_final.json, or nnU-Net's own where there is none."""
        for place in (self.preprocessed, self.raw):
            if place and (place / "splits_final.json").is_file():
                return read_splits(place / "splits_final.json")
        return NNUNETS_OWN

    def description(self, predictions: Path, references: Path) -> dict[str, Any]:
        """Of the labels in both."""
        file = self.dataset_json or dataset_json_near(predictions, references)
        if file is None:
            raise ValueError(
                f"There is no dataset.json in {predictions} or the three folders above it; "
                "give one with --dataset-json."
            )
        return read_description(file)


@dataclass(frozen=True)
class Run:
    """One folder of predictions and what it is scored against.

    expected  the cases that it should hold, which `expected_by` says; None: those it does hold
    folds     of single cases, where the folder joins several
    """

    origin: Origin
    predictions: Path
    references: Path
    description: dict[str, Any]
    expected: tuple[str, ...] | None = None
    expected_by: str = ""
    folds: Mapping[str, str] = field(default_factory=dict)

    def matched(self) -> Matched:
        matched = match_cases(
            self.predictions,
            self.references,
            self.description["file_ending"],
            expected=self.expected,
            expected_by=self.expected_by,
        )
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


Found = tuple[list[Run], list[str]]  # what can be scored, and a sentence on each fold that cannot


def find_runs(
    folder: Path,
    raw: Path | None,
    preprocessed: Path | None,
    dataset_json: Path | None = None,
    folds: Collection[str] | None = None,
) -> Found:
    """Everything that can be scored in or below `folder`, and sentences on the folds that are missing, or are
    none of the split's.

    `folder` is a dataset's folder of results, one of a trained model, of a fold, of validation predictions or
    of nnUNetv2_predict; `raw` and `preprocessed` are nnU-Net's folders of all datasets. Labels are numbered
    by `dataset_json`: by default by those beside predictions and references, which have to agree. Of trained
    models only `folds` are scored, by default all, and only these can be missing.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    origin = origin_of(folder)
    if not origin.dataset:
        raise ValueError(
            f"{folder} does not tell its dataset: expected .../Dataset###_Name/..., or a plans.json."
        )
    in_raw, in_preprocessed = (place and place / origin.dataset for place in (raw, preprocessed))
    places = Places(in_raw, in_preprocessed, dataset_json, None if folds is None else frozenset(folds))
    if DATASET.fullmatch(folder.name) and not (folder / "plans.json").is_file():
        models = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.count("__") == 2]
        if not models:
            raise ValueError(f"{folder} holds no results (TRAINER__PLANS__CONFIGURATION).")
        return _together([_of_model(model, places) for model in models])
    if folder.name.count("__") == 2:
        return _of_model(folder, places)
    if FOLD.fullmatch(folder.name):
        folder = folder / "validation"
    if folds is not None and origin.fold and origin.fold not in folds:
        raise ValueError(f"{folder} is of fold {origin.fold}, and only {', '.join(folds)} should be scored.")
    if folder.name == "validation" and FOLD.fullmatch(folder.parent.name):
        return _of_fold(folder, places)
    if folder.name.startswith(CROSSVAL):
        return _of_crossval(folder, places)
    references = places.test_references()
    description = places.description(folder, references)
    return [Run(replace(origin, fold="test"), folder, references, description)], []


def _of_model(model: Path, places: Places) -> Found:
    splits, chosen = places.splits(), places.folds
    there = {match[1]: path for path in sorted(model.iterdir()) if (match := FOLD.fullmatch(path.name))}
    there = {fold: path for fold, path in there.items() if chosen is None or fold in chosen}
    known = {fold: path for fold, path in there.items() if splits.has(fold)}
    others = [splits.left_out(path, [fold]) for fold, path in there.items() if fold not in known]
    scored = {fold: path / "validation" for fold, path in known.items() if _predicted(path / "validation")}
    joined = [path for path in sorted(model.iterdir()) if JOINED.fullmatch(path.name) and _predicted(path)]
    if scored or chosen is not None or not joined:
        found, done = [_of_fold(path, places) for path in scored.values()], set(scored)
    else:
        best = max(joined, key=lambda path: len(_joined_folds(path)))
        found = [_of_crossval(best, places)]
        done = {fold for runs, _ in found if runs for fold in _joined_folds(best)}
    wanted = chosen or (known if set(known) == {"all"} else {*splits.names, *known})
    missing = [
        f"{model.name}: fold_{fold} "
        + ("has no validation; `nnUNetv2_train ... --val` makes it" if fold in known else "is missing")
        for fold in sorted(wanted)
        if fold not in done
    ]
    return _together([*found, ([], [*others, *missing])])


def _together(found: Sequence[Found]) -> Found:
    return [run for runs, _ in found for run in runs], [line for _, lines in found for line in lines]


def _of_fold(validation: Path, places: Places) -> Found:
    origin, splits = origin_of(validation), places.splits()
    if not splits.has(origin.fold):
        return [], [splits.left_out(validation, [origin.fold])]
    if not _predicted(validation):
        raise ValueError(f"{validation} holds no predictions; `nnUNetv2_train ... --val` makes them.")
    references = places.validation_references()
    run = Run(origin, validation, references, places.description(validation, references))
    if splits.cases is not None and origin.fold != "all":
        by = f"fold {origin.fold} in {splits.source}"
        run = replace(run, expected=splits.cases[int(origin.fold)], expected_by=by)
    return [run], []


def _of_crossval(folder: Path, places: Places) -> Found:
    """Every case once, validated by the network that had not seen it."""
    numbers, splits = _joined_folds(folder), places.splits()
    if unknown := [number for number in numbers if not splits.has(number)]:
        return [], [splits.left_out(folder, unknown)]
    references = places.validation_references()
    run = Run(origin_of(folder), folder, references, places.description(folder, references))
    if numbers == ["all"]:
        return [replace(run, origin=replace(run.origin, fold="all"))], []
    if splits.cases is None:
        return [run], []
    of_case = [(case, number) for number in numbers for case in splits.cases[int(number)]]
    folds = dict(of_case)
    if twice := sorted({case for case, number in of_case if folds[case] != number}):
        return [], [
            f"{folder} is left out: {splits.source} validates {', '.join(twice)} in several folds, and whose "
            "prediction is there cannot be told. Score the folds themselves."
        ]
    by = f"the folds {', '.join(numbers)} in {splits.source}"
    return [replace(run, expected=tuple(folds), expected_by=by, folds=folds)], []


def _joined_folds(crossval: Path) -> list[str]:
    """crossval_results_folds_0_1 -> 0, 1"""
    joined = JOINED.fullmatch(crossval.name)
    if joined is None:
        raise ValueError(f"{crossval} does not say which folds it joins; expected {CROSSVAL}0_1_2_3_4.")
    return joined[1].split("_")


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

    Where both have one, they must number the labels alike. One that another release brings along is not
    taken, but must not contradict the one that is.
    """
    sides = [_near(predictions, 3), _near(references, 1)]
    found = [nearest for side in sides if (nearest := next(filter(is_description, side), None))]
    if len(found) == 2:
        require_same_numbering(*found)
    files = [*found, *(side[0] for side in sides if side)]
    for other in set(files[1:]) - set(found):
        require_no_contradiction(files[0], other)
    return found[0] if found else None


def _near(folder: Path, levels: int) -> list[Path]:
    folders = [folder, *list(folder.resolve().parents)[:levels]]
    return [file for each in folders if (file := each / "dataset.json").is_file()]
