"""Content of the report, collected from tables and nnU-Net's folders; the report lists what is missing."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.nnunet.version import get_installed_version
from nnunet_mamba.study.evaluation import METRICS, Origin, Score, average_seeds, read_method_table
from nnunet_mamba.study.evaluation.results import read_origin
from nnunet_mamba.study.report.predicted_cases import (
    PredictedCases,
    find_data_folders,
    find_predicted_cases,
    match_folders,
)
from nnunet_mamba.study.report.published import (
    PublishedTable,
    StudySetup,
    match_dataset,
    read_published_tables,
)
from nnunet_mamba.study.report.shown_cases import ShownCase, read_shown_cases
from nnunet_mamba.study.report.training_curves import TrainingRun, find_training_runs
from nnunet_mamba.study.statistics import DatasetComparison, compare

ORDER = ("dice", "nsd", "hd95")  # these metrics first, in this order
PACKAGES = ("nnunet_mamba", "nnunetv2", "torch", "numba", "monai", "numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Stage:
    """One step on the way to the report, the time it took, and the commands it ran."""

    name: str
    seconds: float
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportRequest:
    """Input and options of the report.

    results      nnUNet_results/DATASET, for the training and the label maps of cross-validation
    predictions  folders with the label maps that the tables were computed from, one per method, in the order
                 of their first tables; with the folders of their references and images
    origin       of rows that do not tell their own
    margins      differences below which methods count as equivalent, by metric
    stages, variables, facts  what a quickstart knows besides: variables are NAME=value, facts (name, text)
    """

    tables: Sequence[Path]
    results: Path | None = None
    predictions: Sequence[Path] = ()
    references: Path | None = None
    images: Path | None = None
    origin: Origin | None = None
    dataset: str | None = None
    protocol: str | None = None
    baseline: str | None = None
    group: str | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    n_bootstrap: int = 10_000
    command: str = ""
    note: str = ""
    stages: Sequence[Stage] = ()
    variables: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class StudyReport:
    """Content of the report on one dataset.

    results      the dataset's folder in nnUNet_results, if it was given
    comparisons  one per metric, the leading one first
    scores       means over the seeds of the trainings; `seeds` are theirs, "" for those that are not known
    tables       name, number of rows and SHA-256 of each file
    left_out     sentences on what could not be shown, and why
    """

    request: ReportRequest
    dataset: str
    results: Path | None
    comparisons: Sequence[DatasetComparison]
    scores: Sequence[Score]
    seeds: Sequence[str]
    training_runs: Sequence[TrainingRun]
    predicted: PredictedCases | None
    published: Sequence[PublishedTable]
    setup: StudySetup
    tables: Sequence[tuple[str, int, str]]
    versions: Sequence[tuple[str, str]]
    left_out: Sequence[str]

    @property
    def leading(self) -> DatasetComparison:
        return self.comparisons[0]

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Methods by short name, best first by the leading metric."""
        by_name = {str(score.method): score.method for score in self.scores}
        return {m.method: by_name[m.full_name] for m in self.leading.ranked_methods}

    @property
    def single(self) -> Method | None:
        """Method of a report on one alone, else None."""
        return next(iter(self.methods.values())) if len(self.methods) == 1 else None

    @property
    def title(self) -> str:
        subject = self.single.trainer if self.single else f"{len(self.methods)} methods"
        return f"{subject} on {self.dataset or 'a dataset'}"

    @cached_property
    def shown_cases(self) -> list[ShownCase]:
        """Cases to show, read once."""
        if self.predicted is None:
            return []
        return read_shown_cases(self.predicted, self.methods, self.scores, self.leading)

    @property
    def note_on_seeds(self) -> str:
        """Sentence on the seeds of the trainings and what is of one alone; "" if they are not known."""
        if not all(self.seeds):
            return ""
        if len(self.seeds) < 2:
            return f"Trained with seed {self.seeds[0]}."
        own = self.results and read_origin(self.results).seed
        return (
            f"Trained with seeds {', '.join(self.seeds)}; scores are means over them; pictures, curves and "
            f"confusions are of seed {own or self.seeds[0]}."
        )

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.request.stages)

    def select_scores(self, method: Method, metric: str) -> list[Score]:
        return [score for score in self.scores if score.metric == metric and score.method == method]

    def select_runs(self, method: Method) -> list[TrainingRun]:
        return [run for run in self.training_runs if run.method == method]


def collect_study_report(request: ReportRequest) -> StudyReport:
    """Collect the content of the report. Raise ValueError for tables that cannot be compared."""
    tables = [(table, read_method_table(table, request.origin)) for table in request.tables]
    scores = _select_scores([score for _, each in tables for score in each], request)
    dataset = scores[0].dataset
    comparisons, left_out = _compare_metrics(scores, request)
    seeds = sorted({score.seed for score in scores}, key=lambda seed: (len(seed), seed))
    results = None if request.results is None else _find_dataset_results(request.results, dataset)
    runs, missing_runs = _read_runs(results)
    predicted, missing_files = _find_predicted(request, results, [each for _, each in tables])
    setup = StudySetup(
        match_dataset(dataset) or "",
        comparisons[0].protocol,
        frozenset(score.fold for score in scores),
        comparisons[0].n_cases,
    )
    metrics = {each.metric for each in comparisons}
    return StudyReport(
        request=request,
        dataset=dataset,
        results=results,
        comparisons=comparisons,
        scores=average_seeds(scores),
        seeds=seeds,
        training_runs=runs,
        predicted=predicted,
        published=[table for table in read_published_tables(setup.dataset) if table.metric in metrics],
        setup=setup,
        tables=[(table.name, len(each), sha256(table.read_bytes()).hexdigest()) for table, each in tables],
        versions=_list_versions(),
        left_out=[*left_out, *missing_runs, *missing_files],
    )


def _select_scores(scores: Sequence[Score], request: ReportRequest) -> list[Score]:
    """Return the scores of the requested dataset (default: the only one) and protocol."""
    aliases = {dataset: match_dataset(dataset) for dataset in sorted({score.dataset for score in scores})}
    if not scores:
        raise ValueError("The tables have no rows.")
    if request.dataset is None and len(aliases) > 1:
        raise ValueError(f"The tables have several datasets, choose one by --dataset: {', '.join(aliases)}.")
    of_dataset = [s for s in scores if request.dataset in (None, s.dataset, aliases[s.dataset])]
    if not of_dataset:
        raise ValueError(f"The tables have no rows of {request.dataset!r}; they have {', '.join(aliases)}.")
    chosen = [s for s in of_dataset if request.protocol in (None, s.protocol)]
    if not chosen:
        known = ", ".join(sorted({score.protocol for score in of_dataset}))
        raise ValueError(f"The tables have no rows of the protocol {request.protocol!r}; they have {known}.")
    return chosen


def _compare_metrics(
    scores: Sequence[Score], request: ReportRequest
) -> tuple[list[DatasetComparison], list[str]]:
    """Return a comparison per metric with a known direction, and sentences on the other metrics."""
    metrics = list(dict.fromkeys(score.metric for score in scores))
    metrics.sort(key=lambda metric: ORDER.index(metric) if metric in ORDER else len(ORDER))
    known = [metric for metric in metrics if metric in METRICS]
    if not known:
        raise ValueError(f"The tables have no metric to compare by; they have {', '.join(metrics)}.")
    others = [metric for metric in metrics if metric not in known]
    left_out = [f"{metric}: whether more of it is better is not known." for metric in others]
    without = [metric for metric in request.margins if metric not in known]
    left_out += [f"Margin of {metric}: the tables do not have it." for metric in without]
    comparisons = [
        result
        for metric in known
        for result in compare(
            scores,
            metric=metric,
            baseline=request.baseline,
            group=request.group,
            margin=request.margins.get(metric),
            n_bootstrap=request.n_bootstrap,
            seed=request.seed,
            fewest_methods=1,
        )
    ]
    return comparisons, left_out


def _find_dataset_results(results: Path, dataset: str) -> Path:
    """Return the dataset's folder of results, which may be `results` itself."""
    if not results.is_dir():
        expected = f"nnUNet_results/{dataset or 'DatasetXXX_Name'}"
        raise ValueError(f"{results} is not a folder; expected {expected}.")
    if dataset and results.name != dataset and (results / dataset).is_dir():
        results = results / dataset
    if dataset and results.resolve().name != dataset:
        raise ValueError(f"{results} is not the folder of {dataset}, the dataset of the tables.")
    return results


def _read_runs(results: Path | None) -> tuple[list[TrainingRun], list[str]]:
    """Return the training runs of a dataset's results, and a sentence if there are none."""
    if results is None:
        return [], ["Training: give --results."]
    runs = find_training_runs(results)
    return runs, [] if runs else [f"Training: {results.name} has neither logs nor checkpoints."]


def _find_predicted(
    request: ReportRequest, results: Path | None, tables: Sequence[Sequence[Score]]
) -> tuple[PredictedCases | None, list[str]]:
    """Return the label maps of the tables' cases, and a sentence on what is missing."""
    if request.predictions:
        predicted = _match_predictions(request, tables)
        fix = "give --images"
    elif results is None:
        return None, ["Pictures of cases, confusion of labels: give --results, or --predictions."]
    else:
        try:
            predicted = find_predicted_cases(results, *find_data_folders(results))
        except (ValueError, OSError) as error:
            return None, [f"Pictures of cases, confusion of labels: {error}"]
        fix = "export nnUNet_raw"
    missing = f"Pictures of cases: the images were not found; {fix}."
    return predicted, [] if predicted.has_images else [missing]


def _match_predictions(request: ReportRequest, tables: Sequence[Sequence[Score]]) -> PredictedCases:
    """Return the label maps in the folders of predictions, each of the one method of its tables."""
    if request.references is None:
        raise ValueError("--predictions goes with --references.")
    methods = [{score.method for score in scores} for scores in tables]
    order = list(dict.fromkeys(method for each in methods for method in each))
    if len(request.predictions) != len(order) or any(len(each) != 1 for each in methods):
        raise ValueError(
            f"Got {len(request.predictions)} folders of --predictions; expected one per method, in the order "
            "of their tables, and tables of one method each."
        )
    folders = dict(zip(order, request.predictions, strict=True))
    return match_folders(folders, request.references, request.images)


def _list_versions() -> list[tuple[str, str]]:
    found = ((package, get_installed_version(package)) for package in PACKAGES)
    installed = ((name, text) for name, text in found if text)
    return [("python", platform.python_version()), ("system", platform.platform(terse=True)), *installed]
