"""Results of a comparison: of each method, of each pair of methods, and of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from nnunet_mamba.study.statistics.formats import format_metric
from nnunet_mamba.study.statistics.ranking import Ranking

ALPHA = 0.05
CASE_MEAN = "case mean"
TWIN = "against the twin without SSM"
BASELINE = "against the baseline"


@dataclass(frozen=True)
class MethodSummary:
    """Summary of one method: means over cases of the case's mean over labels."""

    method: str
    full_name: str
    mean: float
    sd: float  # over cases
    n_cases: int
    fold_means: dict[str, float]
    sd_over_folds: float  # of the fold means; NaN for fewer than 2 folds


@dataclass(frozen=True)
class Comparison:
    """Comparison of one method with another on one label, or on case means.

    against     the twin or the baseline; with or without labels, it makes the family of tests
    difference  method - other, mean over cases; ci_low, ci_high: BCa over patients
    n_pairs     patients (cases without --group); p, rank_biserial and win_rate are computed from their means,
                the last two signed so that more is better
    n_excluded  values of a case and label where either method has none, because both masks are empty;
                n_one_sided of them where the other method has a value: a false positive
    """

    against: str
    method: str
    other: str
    label: str
    label_name: str
    n_cases: int
    n_pairs: int
    n_excluded: int
    n_one_sided: int
    mean: float
    mean_other: float
    difference: float
    ci_low: float
    ci_high: float
    fold_differences: dict[str, float]
    p: float
    rank_biserial: float
    win_rate: float
    p_holm: float = float("nan")
    n_family: int = 0
    verdict: str = ""

    @property
    def family(self) -> str:
        """Return the name of the tests that are corrected together."""
        return f"{self.against}, {'case means' if self.label == CASE_MEAN else 'labels'}"


@dataclass(frozen=True)
class DatasetComparison:
    """Comparison of all methods on one dataset by one metric."""

    dataset: str
    metric: str
    higher_is_better: bool
    protocol: str
    baseline: str
    n_cases: int
    n_patients: int
    labels: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    methods: tuple[MethodSummary, ...]
    comparisons: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    case_means: dict[str, dict[str, float]]  # method -> case -> mean; those that are ranked
    alpha: float
    n_bootstrap: int
    seed: int

    @property
    def metric_title(self) -> str:
        """Return the metric with its unit."""
        return format_metric(self.metric, self.protocol)

    @property
    def resampled(self) -> str:
        return "patients" if self.n_patients < self.n_cases else "cases"

    @property
    def ranked_methods(self) -> list[MethodSummary]:
        """Return the methods, best first."""
        return sorted(self.methods, key=lambda m: -m.mean if self.higher_is_better else m.mean)

    @property
    def families(self) -> list[str]:
        """Return against whom case means were tested, twins first."""
        return [against for against in (TWIN, BASELINE) if self.select_case_means(against)]

    @property
    def twins(self) -> dict[str, str]:
        """Return the twins without SSM by the methods' names."""
        return {c.method: c.other for c in self.select_case_means(TWIN)}

    def select_case_means(self, against: str) -> list[Comparison]:
        """Return the comparisons of case means with the twins or the baseline."""
        return [c for c in self.comparisons if c.label == CASE_MEAN and c.against == against]

    def find_significant_best(self, means: Mapping[str, float], label: str = CASE_MEAN) -> str | None:
        """Return the method of the best mean if it won all its tests on `label`, of which it has some."""
        defined = {name: mean for name, mean in means.items() if not isnan(mean)}
        if not defined:
            return None
        best = (max if self.higher_is_better else min)(defined, key=lambda name: defined[name])
        took_part = [c for c in self.comparisons if c.label == label and best in (c.method, c.other)]
        won = [c.verdict == ("better" if c.method == best else "worse") for c in took_part]
        return best if won and all(won) else None
