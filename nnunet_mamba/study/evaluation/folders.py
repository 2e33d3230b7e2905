"""Folders of predictions against folders of references, matched by the names of their cases."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.io.images import reader_of
from nnunet_mamba.study.evaluation.label_maps import read_label_map
from nnunet_mamba.study.evaluation.labels import (
    contradictions,
    known_values,
    labels_of_values,
    numbering_differences,
    scored_labels,
)
from nnunet_mamba.study.evaluation.pairs import boxes_of
from nnunet_mamba.study.evaluation.scoring import Rules, Task, score_tasks
from nnunet_mamba.study.evaluation.table import Origin, Score

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
DESCRIBED = {"labels", "file_ending"}  # by every dataset.json of nnU-Net v2
SHOWN = 3  # differences of two


@dataclass(frozen=True)
class Matched:
    """Files of the cases that are to be scored: other predictions are only named.

    elsewhere  cases that have a reference and are none of those expected
    expected_by  what says which are expected: "fold 0 of .../splits_final.json"
    """

    predictions: Mapping[str, Path]
    references: Mapping[str, Path]
    folder: Path  # of the predictions
    reference_folder: Path
    elsewhere: frozenset[str] = frozenset()
    expected_by: str = ""

    @property
    def missing(self) -> list[str]:
        return sorted(set(self.references) - set(self.predictions))

    @property
    def extra(self) -> list[str]:
        return sorted(set(self.predictions) - set(self.references) - self.elsewhere)

    @property
    def strays(self) -> list[str]:
        return sorted(set(self.predictions) & self.elsewhere)

    def faults(self) -> list[str]:
        """A sentence each for what is missing and what is too much."""
        return [*self.lacking(), *self.superfluous()]

    def lacking(self) -> list[str]:
        if not self.missing:
            return []
        return [
            f"{self.folder} lacks predictions of {', '.join(self.missing)}; predict them before scoring, "
            "or score them as empty with --allow-missing."
        ]

    def superfluous(self) -> list[str]:
        texts = []
        if self.extra:
            texts.append(
                f"{self.folder} has predictions without a reference in {self.reference_folder}: "
                f"{', '.join(self.extra)}."
            )
        if self.strays:
            texts.append(
                f"{self.folder} has predictions of {', '.join(self.strays)}, which are no validation cases "
                f"of {self.expected_by}: they are left from another split and not scored. Remove them if "
                "the network was trained by this split; if not, train it again, or restore its split."
            )
        return texts

    def tasks(self, rules: Rules, origin: Origin, *, missing_as_empty: bool = False) -> list[Task]:
        return [
            Task(case, self.predictions.get(case), reference, rules, origin)
            for case, reference in sorted(self.references.items())
            if case in self.predictions or missing_as_empty
        ]


def evaluate_folder(
    predictions: Path,
    references: Path,
    dataset_json: Path,
    *,
    metrics: Sequence[str] = ("dice", "hd95"),
    protocol: str = "honest",
    jobs: int = 1,
) -> list[Score]:
    """Scores of every case in `references`, which must all have been predicted, and no others.

    Both folders hold CASE + the file_ending of `dataset_json`, whose labels or regions are scored.
    """
    description = read_description(dataset_json)
    matched = match_cases(Path(predictions), Path(references), description["file_ending"])
    for fault in matched.faults():
        raise ValueError(fault)
    rules = rules_of(description, metrics=tuple(metrics), protocol=protocol)
    return score_tasks(matched.tasks(rules, Origin()), jobs=jobs)


def read_description(dataset_json: Path) -> dict[str, Any]:
    """nnU-Net's dataset.json. ValueError if it is none."""
    description = _read_json(dataset_json)
    if not isinstance(description, dict):
        raise ValueError(f"{dataset_json} is no dataset.json: it holds a {type(description).__name__}.")
    if missing := DESCRIBED - set(description):
        raise ValueError(
            f"{dataset_json} is no dataset.json of nnU-Net v2: it lacks {', '.join(sorted(missing))}."
        )
    return description


def _read_json(file: Path) -> Any:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a dataset.json ({error}).") from error


def is_description(file: Path) -> bool:
    """Whether it is a dataset.json of nnU-Net v2, and not another release's. ValueError if it is no JSON."""
    content = _read_json(file)
    return isinstance(content, dict) and set(content) >= DESCRIBED


def require_same_numbering(first: Path, second: Path) -> None:
    """Refuse two dataset.json of which one calls 8 what the other calls 1."""
    _require_none(numbering_differences(read_description(first), read_description(second)), first, second)


def require_no_contradiction(first: Path, other: Path) -> None:
    """Refuse two dataset.json, of any form (nnU-Net v1, the Decathlon), that number a label differently."""
    contents = [content if isinstance(content := _read_json(file), dict) else {} for file in (first, other)]
    _require_none(contradictions(*contents), first, other)


def _require_none(differences: Sequence[str], first: Path, second: Path) -> None:
    if differences:
        more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise ValueError(
            f"{first} and {second} number the labels differently: {'; '.join(differences[:SHOWN])}{more}. "
            "If predictions and references are numbered alike, say by which: `nnunet-mamba evaluate ... "
            "--dataset-json FILE`; if not, renumber one of them."
        )


def rules_of(description: dict[str, Any], **choices: Any) -> Rules:
    """The labels of a dataset.json and what else is chosen."""
    labels, ignore = scored_labels(description)
    of_files = {"known": known_values(description), "reader": reader_of(description)}
    return Rules(**{"labels": labels, "ignore": ignore, **of_files, **choices})


def match_cases(
    predictions: Path,
    references: Path,
    ending: str | None = None,
    reference_ending: str | None = None,
    expected: Collection[str] | None = None,
    expected_by: str = "",
) -> Matched:
    """Files of both folders by case; endings are looked for if they are not given.

    expected    the cases that should have been predicted (default: all that have a reference), which
                `expected_by` says
    """
    found = case_files(references, reference_ending or ending)
    due = found if expected is None else {case: found[case] for case in expected if case in found}
    if unknown := sorted(set(expected or ()) - set(found)):
        raise ValueError(f"{references} lacks the references of {', '.join(unknown)}.")
    elsewhere = frozenset(found) - frozenset(due)
    files = case_files(predictions, ending)
    return Matched(files, due, predictions, references, elsewhere, expected_by)


def case_files(folder: Path, ending: str | None = None) -> dict[str, Path]:
    """Label maps by the name of their case. A case of which there are two is refused."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    files: dict[str, Path] = {}
    others: dict[str, Path] = {}  # with another ending
    for file in sorted(folder.iterdir()):
        suffix = _ending(file.name, ending)
        if suffix is None or file.name.startswith("."):
            continue
        case = file.name[: -len(suffix)]
        wanted = files if ending in (None, suffix) else others
        if twin := files.get(case) or others.get(case):
            raise ValueError(
                f"{folder} holds the case {case} twice: {twin.name} and {file.name}. Remove one."
            )
        wanted[case] = file
    if not files:
        what = f"no file that ends in {ending!r}" if ending else f"no label map ({', '.join(ENDINGS)})"
        instead = f"; it has {next(iter(others.values())).name}. Convert its files" if others else ""
        raise ValueError(f"{folder} holds {what}{instead}.")
    return files


def _ending(name: str, ending: str | None) -> str | None:
    """The asked for ending, or that of another label map."""
    if ending and name.endswith(ending):
        return ending
    return next((known for known in ENDINGS if name.lower().endswith(known)), None)


def rules_of_references(matched: Matched, **choices: Any) -> Rules:
    """Without a dataset.json: every value of the references but 0 is a label."""
    values = {v for file in matched.references.values() for v in boxes_of(read_label_map(file).array)}
    if not values:
        raise ValueError(f"No reference in {matched.reference_folder} holds a label.")
    return Rules(**{"labels": labels_of_values(values), "known": frozenset({0, *values}), **choices})
