"""Folders of predictions and folders of references, matched by the names of their cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.dataset_json import is_dataset_json, read_dataset_json, read_json
from nnunet_mamba.study.evaluation.config import EvaluationConfig, config_from_dataset_json
from nnunet_mamba.study.evaluation.evaluate import EvaluationTask, score_tasks
from nnunet_mamba.study.evaluation.labels import find_contradictions, find_numbering_differences
from nnunet_mamba.study.evaluation.protocols import get_protocol
from nnunet_mamba.study.evaluation.table import Origin, Score

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
MOST_DIFFERENCES = 3  # in a message


@dataclass(frozen=True)
class MatchedCases:
    """Files of the cases to score; predictions of other cases are reported, not scored.

    elsewhere    cases with a reference that are not expected
    expected_by  source of the expected cases: "fold 0 in .../splits_final.json"
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
    def unexpected(self) -> list[str]:
        return sorted(set(self.predictions) & self.elsewhere)

    def describe_problems(self) -> list[str]:
        """Return a sentence each on missing predictions and on those that are too many."""
        return [*self.describe_missing(), *self.describe_extra()]

    def describe_missing(self) -> list[str]:
        if not self.missing:
            return []
        return [
            f"{self.folder} lacks predictions of {', '.join(self.missing)}; predict them before scoring, "
            "or score them as empty with --allow-missing."
        ]

    def describe_extra(self) -> list[str]:
        texts = []
        if self.extra:
            texts.append(
                f"{self.folder} has predictions without a reference in {self.reference_folder}: "
                f"{', '.join(self.extra)}."
            )
        if self.unexpected:
            texts.append(
                f"{self.folder} has predictions of {', '.join(self.unexpected)}, which are not validation "
                f"cases of {self.expected_by}: they are left from another split and not scored. Remove them "
                "if the network was trained by this split; if not, train it again, or restore its split."
            )
        return texts

    def make_tasks(
        self, config: EvaluationConfig, origin: Origin, *, missing_as_empty: bool = False
    ) -> list[EvaluationTask]:
        """Return a task for each case with a prediction, or for all of them."""
        return [
            EvaluationTask(case, self.predictions.get(case), reference, config, origin)
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
    """Return the scores of every case in `references`. ValueError if predictions are missing or too many.

    Both folders hold CASE + the file_ending of `dataset_json`, whose labels or regions are scored.
    """
    description = read_dataset_json(dataset_json)
    matched = match_cases(Path(predictions), Path(references), description["file_ending"])
    for problem in matched.describe_problems():
        raise ValueError(problem)
    config = config_from_dataset_json(description, metrics=tuple(metrics), protocol=get_protocol(protocol))
    return score_tasks(matched.make_tasks(config, Origin()), jobs=jobs)


def check_same_numbering(first: Path, second: Path) -> None:
    """Raise ValueError for two dataset.json that number a label differently."""
    _check_no_differences(
        find_numbering_differences(read_dataset_json(first), read_dataset_json(second)), first, second
    )


def check_no_contradiction(first: Path, other: Path) -> None:
    """Raise ValueError for two dataset.json of any form (nnU-Net v1, the Decathlon) that number a label
    differently."""
    contents = [content if isinstance(content := read_json(file), dict) else {} for file in (first, other)]
    _check_no_differences(find_contradictions(*contents), first, other)


def _check_no_differences(differences: Sequence[str], first: Path, second: Path) -> None:
    if differences:
        raise ValueError(
            f"{first} and {second} number the labels differently: "
            f"{join_names(differences, MOST_DIFFERENCES, '; ')}. "
            "If predictions and references are numbered alike, say by which: `nnunet-mamba evaluate ... "
            "--dataset-json FILE`; if not, renumber one of them."
        )


def find_dataset_json(predictions: Path, references: Path) -> Path | None:
    """Return nnU-Net's dataset.json, from beside the predictions or up to three levels above, or from beside
    the references or one level above.

    If both have one, they must number the labels alike. A dataset.json of another form, as releases have it,
    is not returned, but must not contradict the returned one.
    """
    sides = [_files_near(predictions, 3), _files_near(references, 1)]
    found = [nearest for side in sides if (nearest := next(filter(is_dataset_json, side), None))]
    if len(found) == 2:
        check_same_numbering(*found)
    files = [*found, *(side[0] for side in sides if side)]
    for other in set(files[1:]) - set(found):
        check_no_contradiction(files[0], other)
    return found[0] if found else None


def _files_near(folder: Path, levels: int) -> list[Path]:
    """Return every dataset.json in the folder or up to `levels` above it, the nearest first."""
    folders = [folder, *list(folder.resolve().parents)[:levels]]
    return [file for each in folders if (file := each / "dataset.json").is_file()]


def match_cases(
    predictions: Path,
    references: Path,
    ending: str | None = None,
    reference_ending: str | None = None,
    expected: Collection[str] | None = None,
    expected_by: str = "",
) -> MatchedCases:
    """Return the files of both folders by case.

    Args:
        ending: of the files in both folders; by default, any of a label map.
        reference_ending: of the references, if it differs.
        expected: cases that should have been predicted; by default, all that have a reference.
        expected_by: source of these cases, for messages.
    """
    found = find_case_files(references, reference_ending or ending)
    due = found if expected is None else {case: found[case] for case in expected if case in found}
    if unknown := sorted(set(expected or ()) - set(found)):
        raise ValueError(f"{references} lacks the references of {', '.join(unknown)}.")
    elsewhere = frozenset(found) - frozenset(due)
    files = find_case_files(predictions, ending)
    return MatchedCases(files, due, predictions, references, elsewhere, expected_by)


def find_case_files(folder: Path, ending: str | None = None) -> dict[str, Path]:
    """Return the label maps of a folder by the name of their case. ValueError for a case with two files."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files: dict[str, Path] = {}
    others: dict[str, Path] = {}  # with another ending
    for file in sorted(folder.iterdir()):
        suffix = _ending(file.name, ending)
        if suffix is None or file.name.startswith("."):
            continue
        case = file.name[: -len(suffix)]
        group = files if ending in (None, suffix) else others
        if other := files.get(case) or others.get(case):
            raise ValueError(
                f"{folder} holds the case {case} twice: {other.name} and {file.name}. Remove one."
            )
        group[case] = file
    if not files:
        what = f"no file that ends in {ending!r}" if ending else f"no label map ({', '.join(ENDINGS)})"
        instead = f"; it has {next(iter(others.values())).name}. Convert its files" if others else ""
        raise ValueError(f"{folder} holds {what}{instead}.")
    return files


def _ending(name: str, ending: str | None) -> str | None:
    """Return `ending` if the name has it, else the known ending of label maps that it has, else None."""
    if ending and name.endswith(ending):
        return ending
    return next((known for known in ENDINGS if name.lower().endswith(known)), None)
