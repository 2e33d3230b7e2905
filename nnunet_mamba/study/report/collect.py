"""Content of the report, collected from tables and nnU-Net's folders; the report lists what is missing."""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.nnunet.version import get_installed_version
from nnunet_mamba.study.evaluation import METRICS, Score, read_method_table
from nnunet_mamba.study.report.content import StudyReport, TableFile
from nnunet_mamba.study.report.files import StudyFiles, find_data_folders, find_study_files
from nnunet_mamba.study.report.published import (
    PublishedTable,
    StudySetup,
    match_dataset,
    read_published_tables,
)
from nnunet_mamba.study.report.training_curves import TrainingRun, find_training_runs
from nnunet_mamba.study.statistics import DatasetComparison, compare

ORDER = ("dice", "nsd", "hd95")  # these metrics first, in this order
PACKAGES = ("nnunet_mamba", "nnunetv2", "torch", "monai", "numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class ReportRequest:
    """Input and options of the report."""

    tables: Sequence[Path]
    results: Path | None = None
    dataset: str | None = None
    protocol: str | None = None
    baseline: str | None = None
    group: str | None = None
    seed: int = 0
    n_bootstrap: int = 10_000
    command: str = ""
    note: str = ""


def collect_study_report(request: ReportRequest) -> StudyReport:
    """Collect the content of the report. Raise ValueError for tables that cannot be compared."""
    tables = [(table, read_method_table(table)) for table in request.tables]
    scores = _select_scores([score for _, each in tables for score in each], request)
    dataset = scores[0].dataset
    studies, left_out = _compare_metrics(scores, request)
    training_runs, files, missing = _read_results(request.results, dataset)
    setup = StudySetup(
        match_dataset(dataset) or "",
        studies[0].protocol,
        frozenset(score.fold for score in scores),
        studies[0].n_cases,
    )
    return StudyReport(
        dataset=dataset,
        studies=studies,
        scores=scores,
        training_runs=training_runs,
        files=files,
        published=_select_published(setup, studies),
        setup=setup,
        tables=[TableFile(table.name, len(each), _sha256(table)) for table, each in tables],
        command=request.command or shlex.join(["nnunet-mamba", "report", *map(str, request.tables)]),
        versions=_list_versions(),
        left_out=[*left_out, *missing],
        note=request.note,
    )


def _select_scores(scores: Sequence[Score], request: ReportRequest) -> list[Score]:
    """Return the scores of the requested dataset (default: the only one) and protocol."""
    datasets = sorted({score.dataset for score in scores})
    wanted = request.dataset
    if wanted is None:
        if len(datasets) > 1:
            names = ", ".join(datasets)
            raise ValueError(f"The tables have several datasets, choose one by --dataset: {names}.")
        chosen = list(scores)
    else:
        chosen = [s for s in scores if wanted in (s.dataset, match_dataset(s.dataset))]
        if not chosen:
            raise ValueError(f"The tables have no rows of {wanted!r}; they have {', '.join(datasets)}.")
    if request.protocol is not None:
        protocols = sorted({score.protocol for score in chosen})
        chosen = [score for score in chosen if score.protocol == request.protocol]
        if not chosen:
            names = ", ".join(protocols)
            raise ValueError(
                f"The tables have no rows of the protocol {request.protocol!r}; they have {names}."
            )
    if not chosen:
        raise ValueError("The tables have no rows.")
    return chosen


def _compare_metrics(
    scores: Sequence[Score], request: ReportRequest
) -> tuple[list[DatasetComparison], list[str]]:
    """Return a study per metric with a known direction, and sentences on the other metrics."""
    metrics = list(dict.fromkeys(score.metric for score in scores))
    metrics.sort(key=lambda metric: ORDER.index(metric) if metric in ORDER else len(ORDER))
    known = [metric for metric in metrics if metric in METRICS]
    if not known:
        raise ValueError(f"The tables have no metric to compare by; they have {', '.join(metrics)}.")
    left_out = [
        f"{metric}: whether more of it is better is not known." for metric in metrics if metric not in known
    ]
    studies = [
        study
        for metric in known
        for study in compare(
            scores,
            metric=metric,
            baseline=request.baseline,
            group=request.group,
            n_bootstrap=request.n_bootstrap,
            seed=request.seed,
            fewest_methods=1,
        )
    ]
    return studies, left_out


def _read_results(
    results: Path | None, dataset: str
) -> tuple[list[TrainingRun], StudyFiles | None, list[str]]:
    """Return training runs and label maps of the dataset's results, and sentences on what is missing."""
    if results is None:
        return [], None, ["Training, worst cases, confusion of labels: give --results."]
    results = Path(results)
    if not results.is_dir():
        expected = f"nnUNet_results/{dataset or 'DatasetXXX_Name'}"
        raise ValueError(f"{results} is not a folder; expected {expected}.")
    if dataset and results.name != dataset and (results / dataset).is_dir():
        results = results / dataset
    if dataset and results.resolve().name != dataset:
        raise ValueError(f"{results} is not the folder of {dataset}, the dataset of the tables.")
    missing = []
    runs = find_training_runs(results)
    if not runs:
        missing.append(f"Training: {results.name} has neither logs nor checkpoints.")
    raw, preprocessed = find_data_folders(results)
    files = None
    try:
        files = find_study_files(results, raw, preprocessed)
    except (ValueError, OSError) as error:
        missing.append(f"Worst cases, confusion of labels: {error}")
    if files is not None and not any(m.image for maps in files.maps.values() for m in maps.values()):
        missing.append("Worst cases: the images were not found; export nnUNet_raw.")
    return runs, files, missing


def _select_published(setup: StudySetup, studies: Iterable[DatasetComparison]) -> list[PublishedTable]:
    """Return the papers' tables of the study's metrics."""
    metrics = {study.metric for study in studies}
    return [table for table in read_published_tables(setup.dataset) if table.metric in metrics]


def _list_versions() -> list[tuple[str, str]]:
    found = ((package, get_installed_version(package)) for package in PACKAGES)
    return [("python", platform.python_version()), *((name, text) for name, text in found if text)]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
