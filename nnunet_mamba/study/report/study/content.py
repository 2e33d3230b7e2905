"""What the page about a study is made from, and the names and signs its parts share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunet_mamba.study.evaluation import METRICS, Score
from nnunet_mamba.study.report.study.files import Files
from nnunet_mamba.study.report.study.published import Ours, PublishedTable
from nnunet_mamba.study.report.study.trainings import Training
from nnunet_mamba.study.statistics import Comparison, DatasetComparison
from nnunet_mamba.study.statistics.methods import Method
from nnunet_mamba.study.statistics.results import CASE_MEAN, TWIN

IN_MM = ("honest", "brats-lesionwise")  # the other protocols have no distances, or those of voxels


@dataclass(frozen=True)
class TableFile:
    """A table of scores that the page is made from."""

    name: str
    n_rows: int
    sha256: str


@dataclass(frozen=True)
class StudyReport:
    """All that is told of one dataset. `studies` has one entry per metric, the leading one first.

    left_out  sentences on what could not be shown, and why
    """

    dataset: str
    studies: Sequence[DatasetComparison]
    scores: Sequence[Score]
    trainings: Sequence[Training]
    files: Files | None
    published: Sequence[PublishedTable]
    ours: Ours
    tables: Sequence[TableFile]
    command: str
    versions: Sequence[tuple[str, str]]
    left_out: Sequence[str]
    note: str = ""

    @property
    def leading(self) -> DatasetComparison:
        return self.studies[0]

    @property
    def methods(self) -> dict[str, Method]:
        """Short name -> method, best first by the leading metric."""
        ranked = sorted(
            self.leading.methods, key=lambda m: -m.mean if self.leading.higher_is_better else m.mean
        )
        return {m.method: Method(*m.full_name.split("__")) for m in ranked}

    def scores_of(self, method: Method, metric: str) -> list[Score]:
        return [
            s
            for s in self.scores
            if s.metric == metric and Method(s.trainer, s.plans, s.configuration) == method
        ]

    def trainings_of(self, method: Method) -> list[Training]:
        return [t for t in self.trainings if Method(t.trainer, t.plans, t.configuration) == method]


def metric_name(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def titled(study: DatasetComparison) -> str:
    """The metric with its unit; protocols that count in voxels do so because a paper's code does."""
    metric = METRICS.get(study.metric)
    if metric is None or not metric.unit:
        return metric_name(study.metric)
    return f"{metric.title} ({metric.unit if study.protocol in IN_MM else 'voxels'})"


def on_case_means(study: DatasetComparison, against: str) -> list[Comparison]:
    return [c for c in study.comparisons if c.label == CASE_MEAN and c.against == against]


def twins(study: DatasetComparison) -> dict[str, str]:
    """Method -> its twin without SSM."""
    return {c.method: c.other for c in on_case_means(study, TWIN)}


def proven_best(study: DatasetComparison, means: dict[str, float], label: str) -> str | None:
    """The method of the best mean, if every test on `label` that it took part in is in its favour."""
    defined = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    if not defined:
        return None
    best = (max if study.higher_is_better else min)(defined, key=lambda name: defined[name])
    took_part = [c for c in study.comparisons if c.label == label and best in (c.method, c.other)]
    won = [c.verdict == ("better" if c.method == best else "worse") for c in took_part]
    return best if won and all(won) else None


def n_digits(study: DatasetComparison) -> int:
    """Shares with four decimals, distances and the like with two."""
    return 4 if study.higher_is_better else 2


def signed(value: float, study: DatasetComparison) -> str:
    return "–" if math.isnan(value) else f"{value:+.{n_digits(study)}f}".replace("-", "−")


def folds_told(folds: Iterable[str]) -> str:
    """0 to 4 for five in a row; each by name otherwise."""
    names = sorted(set(folds) - {""}, key=lambda fold: (len(fold), fold))
    numbers = [int(fold) for fold in names if fold.isdigit()]
    in_a_row = len(numbers) == len(names) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if in_a_row else listed(names)


def listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)
