"""From tables and nnU-Net's folders to what the page tells. What is missing is left out, and said."""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nnunet_mamba.study.evaluation import METRICS, Score, read_table
from nnunet_mamba.study.report.study.content import StudyReport, TableFile
from nnunet_mamba.study.report.study.files import Files, find_files, places
from nnunet_mamba.study.report.study.published import Ours, PublishedTable, known_dataset, published_tables
from nnunet_mamba.study.report.study.trainings import Training, read_trainings
from nnunet_mamba.study.statistics import DatasetComparison, compare

ORDER = ("dice", "nsd", "hd95")  # these metrics first, in this order
PACKAGES = ("nnunet_mamba", "nnunetv2", "torch", "monai", "numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Request:
    """What the command was asked for."""

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


def gather(request: Request) -> StudyReport:
    """ValueError for tables that cannot be compared."""
    tables = [(table, _named(table)) for table in request.tables]
    scores = _chosen([score for _, each in tables for score in each], request)
    dataset = scores[0].dataset
    studies, left_out = _studies(scores, request)
    trainings, files, missing = _of_results(request.results, dataset)
    ours = Ours(
        known_dataset(dataset) or "",
        studies[0].protocol,
        frozenset(score.fold for score in scores),
        studies[0].n_cases,
    )
    return StudyReport(
        dataset=dataset,
        studies=studies,
        scores=scores,
        trainings=trainings,
        files=files,
        published=_published(ours, studies),
        ours=ours,
        tables=[TableFile(table.name, len(each), _sha256(table)) for table, each in tables],
        command=request.command or shlex.join(["nnunet-mamba", "report", *map(str, request.tables)]),
        versions=_versions(),
        left_out=[*left_out, *missing],
        note=request.note,
    )


def _named(table: Path) -> list[Score]:
    """The scores of a table; where it does not say of which method, that is the file's name."""
    return [replace(s, trainer=table.stem) if not s.trainer else s for s in read_table(table)]


def _chosen(scores: Sequence[Score], request: Request) -> list[Score]:
    """The rows of the dataset and protocol that were asked for; of the only dataset by default."""
    known = sorted({score.dataset for score in scores})
    wanted = request.dataset
    if wanted is None:
        if len(known) > 1:
            raise ValueError(
                f"The tables have several datasets, choose one by --dataset: {', '.join(known)}."
            )
        chosen = list(scores)
    else:
        chosen = [s for s in scores if wanted in (s.dataset, known_dataset(s.dataset))]
        if not chosen:
            raise ValueError(f"The tables have no rows of {wanted!r}; they have {', '.join(known)}.")
    if request.protocol is not None:
        protocols = sorted({score.protocol for score in chosen})
        chosen = [score for score in chosen if score.protocol == request.protocol]
        if not chosen:
            raise ValueError(
                f"The tables have no rows of the protocol {request.protocol!r}; they have "
                f"{', '.join(protocols)}."
            )
    if not chosen:
        raise ValueError("The tables have no rows.")
    return chosen


def _studies(scores: Sequence[Score], request: Request) -> tuple[list[DatasetComparison], list[str]]:
    """A study per metric whose direction is known; statistics refuses what cannot be compared."""
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


def _of_results(results: Path | None, dataset: str) -> tuple[list[Training], Files | None, list[str]]:
    """Trainings and label maps below the dataset's folder of results, and what there is not."""
    if results is None:
        return [], None, ["Training, worst cases, confusion of labels: give --results."]
    results = Path(results)
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; expected nnUNet_results/{dataset or 'DatasetXXX_Name'}.")
    if dataset and results.name != dataset and (results / dataset).is_dir():
        results = results / dataset
    if dataset and results.resolve().name != dataset:
        raise ValueError(f"{results} is not of {dataset}, which the tables are about.")
    missing = []
    trainings = read_trainings(results)
    if not trainings:
        missing.append(f"Training: {results.name} has neither logs nor checkpoints.")
    raw, preprocessed = places(results)
    files = None
    try:
        files = find_files(results, raw, preprocessed)
    except (ValueError, OSError) as error:
        missing.append(f"Worst cases, confusion of labels: {error}")
    if files is not None and not any(m.image for maps in files.maps.values() for m in maps.values()):
        missing.append("Worst cases: the images were not found; export nnUNet_raw.")
    return trainings, files, missing


def _published(ours: Ours, studies: Iterable[DatasetComparison]) -> list[PublishedTable]:
    """Of the metrics that are told here."""
    metrics = {study.metric for study in studies}
    return [table for table in published_tables(ours.dataset) if table.metric in metrics]


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
