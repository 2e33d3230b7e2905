"""Comparison of methods: those that are related, as each network with its twin without SSM, to see if the SSM
helps, then all with the baseline; with families of tests, verdicts and rankings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation import METRICS, Score
from nnunet_mamba.study.statistics.bootstrap import Trainings, bootstrap_difference, sum_by_patient
from nnunet_mamba.study.statistics.methods import choose_baseline, choose_pairs
from nnunet_mamba.study.statistics.ranking import Ranking, rank_methods
from nnunet_mamba.study.statistics.results import (
    ALPHA,
    CASE_MEAN,
    Comparison,
    DatasetComparison,
    MethodSummary,
)
from nnunet_mamba.study.statistics.score_matrix import ScoreMatrix, build_score_matrices
from nnunet_mamba.study.statistics.significance import (
    EQUIVALENCE_LEVEL,
    MIN_PAIRS,
    difference_p,
    equivalence_p,
    false_claim_p,
    holm,
    rank_biserial,
    win_rate,
)

FEW_TRAININGS = 5  # of one fold: intervals of 2 miss 17 % of the time, where trainings differ much
FEW_PATIENTS = 20  # BCa intervals of normal differences miss 12 % of the time at 10 patients, 7 % at 20


def compare(
    scores: Iterable[Score],
    *,
    metric: str = "dice",
    baseline: str | None = None,
    group: str | None = None,
    margin: float | None = None,
    n_bootstrap: int = 10_000,
    seed: int = 0,
    fewest_methods: int = 2,
) -> list[DatasetComparison]:
    """Return the comparison on each dataset with at least `fewest_methods`; of a single one, only its means.

    ValueError for scores that cannot be compared, with the names of what differs.

    Args:
        margin: the difference, in the metric's unit, below which methods count as equivalent.
    """
    if n_bootstrap < 100:
        raise ValueError(f"{n_bootstrap} resamples are too few for an interval; expected 100 or more.")
    if margin is not None and not (isfinite(margin) and margin > 0):
        raise ValueError(f"The margin is {margin:g}; expected a positive number, in the metric's unit.")
    margin = float("nan") if margin is None else margin
    settings = _Settings(higher_is_better(metric), margin, n_bootstrap, seed)
    return [
        _compare_matrix(matrix, baseline, settings)
        for matrix in build_score_matrices(scores, metric, group, fewest_methods=fewest_methods)
    ]


def higher_is_better(metric: str) -> bool:
    """Return the direction of a metric. ValueError for unknown metrics."""
    if metric in METRICS:
        return METRICS[metric].higher_is_better
    known = ", ".join(sorted(METRICS))
    raise ValueError(f"Whether more of {metric!r} is better is not known; choose one of {known}.")


@dataclass(frozen=True)
class _Settings:
    higher: bool  # is better
    margin: float  # NaN for none
    n_bootstrap: int
    seed: int


def _compare_matrix(matrix: ScoreMatrix, baseline: str | None, settings: _Settings) -> DatasetComparison:
    base = choose_baseline(matrix.methods, baseline)
    columns = [None, *range(len(matrix.labels))] if len(matrix.labels) > 1 else [None]
    compared = [
        _compare_pair(matrix, settings, against=against, pair=(method, other), column=column)
        for against, method, other in choose_pairs(matrix.methods, base)
        for column in columns
    ]
    case_means, ranked = _rank(matrix, settings)
    return DatasetComparison(
        dataset=matrix.dataset,
        metric=matrix.metric,
        higher_is_better=settings.higher,
        protocol=matrix.protocol,
        baseline=matrix.names[matrix.methods.index(base)],
        n_cases=len(matrix.cases),
        n_patients=len(set(matrix.patients)),
        n_seeds=len(matrix.seeds[0]),
        labels=matrix.labels,
        warnings=(*matrix.warnings, *_warnings(compared, matrix)),
        methods=tuple(_summarise_method(matrix, m) for m in range(len(matrix.methods))),
        comparisons=tuple(add_verdicts(compared, settings.higher)),
        rankings=ranked,
        case_means=case_means,
        alpha=ALPHA,
        margin=settings.margin,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
    )


def _rank(
    matrix: ScoreMatrix, settings: _Settings
) -> tuple[dict[str, dict[str, float]], tuple[Ranking, ...]]:
    """Return case means over the labels for which all methods have a value, and the rankings by them."""
    means = _case_means(matrix.values, ~np.isnan(matrix.values).any((0, 1))).mean(1)
    has = ~np.isnan(means).any(0)
    cases = np.array(matrix.cases)[has]
    table = {
        name: dict(zip(map(str, cases), map(float, row[has]), strict=True))
        for name, row in zip(matrix.names, means, strict=True)
    }
    if not has.any() or len(matrix.methods) == 1:
        return table, ()
    return table, rank_methods(
        means[:, has],
        matrix.names,
        matrix.patients[has],
        higher=settings.higher,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
    )


def _warnings(comparisons: Sequence[Comparison], matrix: ScoreMatrix) -> list[str]:
    """Return sentences on what few patients, few trainings and excluded values mean for the results."""
    if not comparisons:
        return []
    n_patients, n_seeds = len(set(matrix.patients)), len(matrix.seeds[0])
    n_folds = len(set(matrix.folds[0]))
    means = [c for c in comparisons if c.label == CASE_MEAN]
    n_pairs = min(c.n_pairs for c in means)
    n_one_sided = max(c.n_one_sided for c in means)
    found = {
        f"{n_pairs} pairs; with fewer than {MIN_PAIRS} no outcome of the test is significant (the smallest p "
        "of 5 pairs is 0.0625)": n_pairs < MIN_PAIRS,
        f"fewer than {FEW_PATIENTS} patients: the intervals are too narrow; of those of 10 patients, 12 % "
        "and not 5 % miss the truth": n_patients < FEW_PATIENTS,
        f"{n_seeds} seeds of one fold: where they differ more than patients do, up to 17 % and not 5 % of "
        "such intervals miss the truth": n_folds == 1 and 1 < n_seeds < FEW_TRAININGS,
        f"up to {n_one_sided} values left out where one method alone found a label that is not there; that "
        "error is not in these means": n_one_sided > 0,
    }
    return [text for text, applies in found.items() if applies]


def _case_means(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return means over the counted labels, NaN for cases without. Shape: (..., N, L), (N, L) -> (..., N)"""
    n = np.broadcast_to(counted.sum(-1), values.shape[:-1])
    total = np.where(counted, values, 0.0).sum(-1)
    return np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)


def _summarise_method(matrix: ScoreMatrix, m: int) -> MethodSummary:
    by_seed = _case_means(matrix.values[m], ~np.isnan(matrix.values[m]).any(0))
    means = by_seed.mean(0)
    has = ~np.isnan(means)
    folds = _fold_means(means, matrix.folds[m])
    seeds = {seed: _mean(row[has]) for seed, row in zip(matrix.seeds[m], by_seed, strict=True) if seed}
    return MethodSummary(
        method=matrix.names[m],
        full_name=str(matrix.methods[m]),
        mean=_mean(means[has]),
        sd=_sd(means[has]),
        n_cases=int(has.sum()),
        fold_means=folds,
        sd_over_folds=_sd(np.array(list(folds.values()))),
        seed_means=seeds,
        sd_over_seeds=_sd(np.array(list(seeds.values()))),
    )


def _fold_means(values: np.ndarray, folds: Sequence[str]) -> dict[str, float]:
    """Return the mean of each numbered fold that has a defined value."""
    of = np.array(folds)
    numbers = sorted({fold for fold in folds if fold.isdigit()}, key=int)
    means = {fold: _mean(values[(of == fold) & ~np.isnan(values)]) for fold in numbers}
    return {fold: mean for fold, mean in means.items() if not np.isnan(mean)}


def _compare_pair(
    matrix: ScoreMatrix,
    settings: _Settings,
    *,
    against: str,
    pair: tuple[Method, Method],
    column: int | None,
) -> Comparison:
    """Return the comparison of two methods on one label, or on case means (column None)."""
    m, other = (matrix.methods.index(method) for method in pair)
    labels = slice(None) if column is None else slice(column, column + 1)
    values = np.stack([matrix.values[m], matrix.values[other]])[..., labels]  # (2, S, N, L)
    is_missing = np.isnan(values)
    counted = ~is_missing.any((0, 1))
    case_means, has = _case_means(values, counted), counted.any(1)
    mean_a, mean_b = case_means.mean(1)
    differences, patients = (mean_a - mean_b)[has], matrix.patients[has]
    sums, sizes = sum_by_patient(differences, patients)
    gains = sums / sizes if settings.higher else -sums / sizes
    replicates = bootstrap_difference(
        _select_trainings(matrix, m, case_means[0], has),
        _select_trainings(matrix, other, case_means[1], has),
        patients,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
    )
    low, high = replicates.interval()
    equivalence_low, equivalence_high = replicates.interval(EQUIVALENCE_LEVEL)
    number, name = (CASE_MEAN, "") if column is None else matrix.labels[column]
    return Comparison(
        against=against,
        condition=matrix.methods[m].condition,
        method=matrix.names[m],
        other=matrix.names[other],
        label=number,
        label_name=name,
        n_cases=int(has.sum()),
        n_pairs=len(gains),
        n_excluded=int((~counted).sum()),
        n_one_sided=int((~counted & ~is_missing.all((0, 1))).sum()),
        mean=_mean(mean_a[has]),
        mean_other=_mean(mean_b[has]),
        difference=_mean(differences),
        ci_low=low,
        ci_high=high,
        equivalence_low=equivalence_low,
        equivalence_high=equivalence_high,
        fold_differences=_fold_means(mean_a - mean_b, matrix.folds[m]),
        p=difference_p(gains, replicates, len(matrix.seeds[m])),
        rank_biserial=rank_biserial(gains),
        win_rate=win_rate(gains),
        p_false_claim=false_claim_p(gains, replicates, len(matrix.seeds[m])),
        p_equivalence=equivalence_p(gains, replicates, settings.margin),
    )


def _select_trainings(matrix: ScoreMatrix, m: int, means: np.ndarray, has: np.ndarray) -> Trainings:
    """Return the case means of a method's trainings; a network under several conditions has one stream."""
    trained = [(method.trained, seeds) for method, seeds in zip(matrix.methods, matrix.seeds, strict=True)]
    return Trainings(means[:, has], np.array(matrix.folds[m])[has], stream=trained.index(trained[m]))


def add_verdicts(comparisons: Iterable[Comparison], higher: bool) -> list[Comparison]:
    """Return the comparisons with Holm's correction within each family, and the verdicts that follow."""
    done = list(comparisons)
    for family in {c.family for c in done}:
        members = [i for i, c in enumerate(done) if c.family == family]
        n = sum(not np.isnan(done[i].p) for i in members)
        differ, equal = (holm([getattr(done[i], p) for i in members]) for p in ("p", "p_equivalence"))
        for i, p, q in zip(members, differ, equal, strict=True):
            within = q < ALPHA and done[i].n_pairs >= MIN_PAIRS
            done[i] = replace(done[i], p_holm=p, p_equivalence_holm=q, n_family=n, is_within_margin=within)
    return [replace(c, verdict=decide_verdict(c, higher)) for c in done]


def decide_verdict(comparison: Comparison, higher: bool) -> str:
    """Return the verdict in words. "not better": no difference was shown, which does not prove equality;
    "equivalent" does, within the margin."""
    if comparison.n_pairs < MIN_PAIRS:
        return "too few pairs"
    if not comparison.p_holm < ALPHA:
        return "equivalent" if comparison.is_within_margin else "not better"
    gain = comparison.difference if higher else -comparison.difference
    if gain * comparison.rank_biserial <= 0:
        return "mixed"  # most pairs and the mean disagree
    return "better" if gain > 0 else "worse"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")
