"""Results of a comparison: of each method, of each pair of methods, and of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from nnunet_mamba.study.statistics.formats import format_metric
from nnunet_mamba.study.statistics.methods import BASELINE, RELATIONS, TWIN
from nnunet_mamba.study.statistics.ranking import Ranking

ALPHA = 0.05
CASE_MEAN = "case mean"


@dataclass(frozen=True)
class MethodSummary:
    """Summary of one method: means over cases of the case's mean over labels, and over its trainings.

    seed_means  of each seed, over all folds; empty if the seeds are not known
    sd_over_*   of those means; NaN for fewer than 2
    """

    method: str
    full_name: str
    mean: float
    sd: float  # over cases
    n_cases: int
    fold_means: dict[str, float]
    sd_over_folds: float
    seed_means: dict[str, float]
    sd_over_seeds: float


@dataclass(frozen=True)
class Comparison:
    """Comparison of one method with another on one label, or on case means.

    against     the relation or the baseline
    condition   under which the method was validated, "" as it was trained
    difference  method - other, mean over cases and seeds; ci_low, ci_high: BCa over patients and seeds, 95 %;
                equivalence_low, equivalence_high: 90 %
    n_pairs     patients (cases without --group); p, rank_biserial and win_rate are computed from their means,
                the last two signed so that more is better; p also from the trainings, if there are several
    n_excluded  values of a case and label where either method has none, because both masks are empty;
                n_one_sided of them where another training has a value: a false positive
    p_false_claim  the probability that the method of the better mean is not truly better
    p_equivalence  of a difference within the margin, NaN without a margin; is_within_margin: after Holm
    """

    against: str
    condition: str
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
    equivalence_low: float
    equivalence_high: float
    fold_differences: dict[str, float]
    p: float
    rank_biserial: float
    win_rate: float
    p_false_claim: float
    p_equivalence: float
    p_holm: float = float("nan")
    p_equivalence_holm: float = float("nan")
    n_family: int = 0
    verdict: str = ""
    is_within_margin: bool = False

    @property
    def verdict_text(self) -> str:
        """Return the verdict, and whether a difference that was shown is smaller than the margin."""
        is_small = self.is_within_margin and self.verdict in ("better", "worse", "mixed")
        return f"{self.verdict}, by less than the margin" if is_small else self.verdict

    @property
    def family(self) -> str:
        """Return the name of the tests that are corrected together: those of one question."""
        condition = f", @{self.condition}" if self.condition else ""
        return f"{self.against}{condition}, {'case means' if self.label == CASE_MEAN else 'labels'}"


@dataclass(frozen=True)
class DatasetComparison:
    """Comparison of all methods on one dataset by one metric.

    n_seeds  trainings of each fold by each method
    margin   difference below which methods count as equivalent; NaN if none was named
    """

    dataset: str
    metric: str
    higher_is_better: bool
    protocol: str
    baseline: str
    n_cases: int
    n_patients: int
    n_seeds: int
    labels: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    methods: tuple[MethodSummary, ...]
    comparisons: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    case_means: dict[str, dict[str, float]]  # method -> case -> mean; those that are ranked
    alpha: float
    margin: float
    n_bootstrap: int
    seed: int

    @property
    def metric_title(self) -> str:
        """Return the metric with its unit."""
        return format_metric(self.metric, self.protocol)

    @property
    def has_margin(self) -> bool:
        return not isnan(self.margin)

    @property
    def resampled(self) -> str:
        """Return what intervals resample."""
        return f"{self.paired} and seeds" if self.n_seeds > 1 else self.paired

    @property
    def paired(self) -> str:
        """Return what tests pair, and rankings resample."""
        return "patients" if self.n_patients < self.n_cases else "cases"

    @property
    def ranked_methods(self) -> list[MethodSummary]:
        """Return the methods, best first."""
        return sorted(self.methods, key=lambda m: -m.mean if self.higher_is_better else m.mean)

    @property
    def families(self) -> list[str]:
        """Return against whom case means were tested, twins first."""
        known = [*(relation.against for relation in RELATIONS), BASELINE]
        return [against for against in known if self.select_case_means(against)]

    @property
    def twins(self) -> dict[str, str]:
        """Return the twins without SSM by the methods' names."""
        return {c.method: c.other for c in self.select_case_means(TWIN.against)}

    def select_case_means(self, against: str) -> list[Comparison]:
        """Return the comparisons of case means of one family."""
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
