"""Content of the report on a study, and the names and number formats that its parts share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation import METRICS, Score
from nnunet_mamba.study.report.files import StudyFiles
from nnunet_mamba.study.report.published import PublishedTable, StudySetup
from nnunet_mamba.study.report.training_curves import TrainingRun
from nnunet_mamba.study.statistics import Comparison, DatasetComparison
from nnunet_mamba.study.statistics.results import BASELINE, CASE_MEAN, TWIN

IN_MM = ("honest", "brats-lesionwise")  # the other protocols have no distances, or those of voxels


@dataclass(frozen=True)
class TableFile:
    """File with a table of scores."""

    name: str
    n_rows: int
    sha256: str


@dataclass(frozen=True)
class StudyReport:
    """Content of the report on one dataset.

    studies   one per metric, the leading one first
    left_out  sentences on what could not be shown, and why
    """

    dataset: str
    studies: Sequence[DatasetComparison]
    scores: Sequence[Score]
    training_runs: Sequence[TrainingRun]
    files: StudyFiles | None
    published: Sequence[PublishedTable]
    setup: StudySetup
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
        """Methods by short name, best first by the leading metric."""
        ranked = sorted(
            self.leading.methods, key=lambda m: -m.mean if self.leading.higher_is_better else m.mean
        )
        return {m.method: Method(*m.full_name.split("__")) for m in ranked}

    def select_scores(self, method: Method, metric: str) -> list[Score]:
        return [
            s
            for s in self.scores
            if s.metric == metric and Method(s.trainer, s.plans, s.configuration) == method
        ]

    def select_runs(self, method: Method) -> list[TrainingRun]:
        return [r for r in self.training_runs if Method(r.trainer, r.plans, r.configuration) == method]


def state_findings(report: StudyReport) -> list[str]:
    """Return a sentence per test of case means by the leading metric, whatever its verdict."""
    study, metric = report.leading, format_metric(report.leading)
    findings = []
    for against in find_families(study):
        for c in select_case_means(study, against):
            other = f"its twin without SSM ({c.other})" if against == TWIN else c.other
            verdict = {
                "better": f"{c.method} is better than {other}",
                "worse": f"{c.method} is worse than {other}",
                "not better": f"{c.method} is not shown to differ from {other}",
                "mixed": f"{c.method} and {other} differ, but ranks and mean disagree on the direction",
                "too few pairs": f"{c.method} and {other}: {c.n_pairs} pairs are too few for a test",
            }[c.verdict]
            value = f"{metric} {format_signed(c.difference, study)}, 95 % CI {format_interval(c, study)}"
            is_doubtful = c.verdict in ("better", "worse") and c.ci_low <= 0 <= c.ci_high
            findings.append(f"{verdict}: {value}{', though its interval includes 0' if is_doubtful else ''}.")
    return findings


def get_metric_name(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def format_metric(study: DatasetComparison) -> str:
    """Return the metric with its unit; protocols in voxels follow the code of a paper."""
    metric = METRICS.get(study.metric)
    if metric is None or not metric.unit:
        return get_metric_name(study.metric)
    return f"{metric.title} ({metric.unit if study.protocol in IN_MM else 'voxels'})"


def select_case_means(study: DatasetComparison, against: str) -> list[Comparison]:
    """Return the comparisons of case means in a family of tests: against the twins or the baseline."""
    return [c for c in study.comparisons if c.label == CASE_MEAN and c.against == against]


def find_twins(study: DatasetComparison) -> dict[str, str]:
    """Return the twins without SSM by the methods' names."""
    return {c.method: c.other for c in select_case_means(study, TWIN)}


def find_families(study: DatasetComparison) -> list[str]:
    """Return the families of tests that the study has, twins first."""
    return [against for against in (TWIN, BASELINE) if select_case_means(study, against)]


def find_significant_best(study: DatasetComparison, means: dict[str, float], label: str) -> str | None:
    """Return the method of the best mean if it won every test on `label` that it took part in, else None."""
    defined = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    if not defined:
        return None
    best = (max if study.higher_is_better else min)(defined, key=lambda name: defined[name])
    took_part = [c for c in study.comparisons if c.label == label and best in (c.method, c.other)]
    won = [c.verdict == ("better" if c.method == best else "worse") for c in took_part]
    return best if won and all(won) else None


def format_label(label: tuple[str, str]) -> str:
    number, name = label
    return name or f"label {number}"


def format_number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def format_value(value: float, study: DatasetComparison) -> str:
    return format_number(value, _n_digits(study))


def format_signed(value: float, study: DatasetComparison) -> str:
    return "–" if math.isnan(value) else f"{value:+.{_n_digits(study)}f}".replace("-", "−")


def format_interval(c: Comparison, study: DatasetComparison) -> str:
    if math.isnan(c.ci_low):
        return "–"
    return f"{format_signed(c.ci_low, study)} to {format_signed(c.ci_high, study)}"


def format_folds(folds: Iterable[str]) -> str:
    """Return "0 to 4" for consecutive folds, else all names."""
    names = sorted(set(folds) - {""}, key=lambda fold: (len(fold), fold))
    numbers = [int(fold) for fold in names if fold.isdigit()]
    consecutive = len(numbers) == len(names) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if consecutive else ", ".join(names)


def _n_digits(study: DatasetComparison) -> int:
    """Return 4 decimals for shares, 2 for distances and the like."""
    return 4 if study.higher_is_better else 2
