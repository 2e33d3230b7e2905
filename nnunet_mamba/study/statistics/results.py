"""Results of a comparison: of each method, of each pair of methods, and of a dataset."""

from dataclasses import dataclass

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
