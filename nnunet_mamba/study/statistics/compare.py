"""The comparison of methods: what is computed for a panel, in which families, and in which words.

Twins come first: a network against itself without SSM answers whether the SSM helps. Then all others against
the baseline.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_mamba.study.evaluation import Score
from nnunet_mamba.study.statistics.bootstrap import by_patient, mean_interval
from nnunet_mamba.study.statistics.directions import higher_is_better
from nnunet_mamba.study.statistics.methods import choose_baseline, twin_of
from nnunet_mamba.study.statistics.paired import MIN_PAIRS, holm, rank_biserial, signed_rank_p, win_rate
from nnunet_mamba.study.statistics.panel import Panel, panels
from nnunet_mamba.study.statistics.ranking import Ranking, rankings
from nnunet_mamba.study.statistics.study import (
    ALPHA,
    BASELINE,
    CASE_MEAN,
    TWIN,
    Comparison,
    MethodSummary,
    Study,
)

FEW_PATIENTS = 20  # BCa intervals of normal differences miss 12 % of the time at 10 patients, 7 % at 20


def compare(
    scores: Iterable[Score],
    *,
    metric: str = "dice",
    baseline: str | None = None,
    group: str | None = None,
    n_bootstrap: int = 10_000,
    seed: int = 0,
    fewest_methods: int = 2,
) -> list[Study]:
    """A study for each dataset of so many methods; of a single one there is nothing but its means.

    ValueError for what cannot be compared, with the names of what differs.
    """
    if n_bootstrap < 100:
        raise ValueError(f"{n_bootstrap} resamples are too few for an interval; expected 100 or more.")
    rules = _Rules(higher_is_better(metric), n_bootstrap, seed)
    return [
        _study(panel, baseline, rules)
        for panel in panels(scores, metric, group, fewest_methods=fewest_methods)
    ]


@dataclass(frozen=True)
class _Rules:
    higher: bool  # is better
    n_bootstrap: int
    seed: int


def _study(panel: Panel, baseline: str | None, rules: _Rules) -> Study:
    base = panel.methods.index(choose_baseline(panel.methods, baseline))
    columns = [None, *range(len(panel.labels))] if len(panel.labels) > 1 else [None]
    compared = [
        _comparison(panel, rules, against=against, pair=pair, column=column)
        for against, pair in _pairs(panel, base)
        for column in columns
    ]
    case_means, ranked = _ranked(panel, rules)
    return Study(
        dataset=panel.dataset,
        metric=panel.metric,
        higher_is_better=rules.higher,
        protocol=panel.protocol,
        baseline=panel.names[base],
        n_cases=len(panel.cases),
        n_patients=len(set(panel.patients)),
        labels=panel.labels,
        warnings=(*panel.warnings, *_warnings(compared, len(set(panel.patients)))),
        methods=tuple(_summary(panel, m) for m in range(len(panel.methods))),
        comparisons=tuple(with_verdicts(compared, rules.higher)),
        rankings=ranked,
        case_means=case_means,
        alpha=ALPHA,
        n_bootstrap=rules.n_bootstrap,
        seed=rules.seed,
    )


def _pairs(panel: Panel, base: int) -> list[tuple[str, tuple[int, int]]]:
    """Each method with its twin, then all with the baseline, unless that says the same again."""
    found = ((m, twin_of(method, panel.methods)) for m, method in enumerate(panel.methods))
    twins = [(m, panel.methods.index(twin)) for m, twin in found if twin is not None]
    others = [(m, base) for m in range(len(panel.methods)) if m != base]
    if {frozenset(pair) for pair in others} <= {frozenset(pair) for pair in twins}:
        others = []
    return [*((TWIN, pair) for pair in twins), *((BASELINE, pair) for pair in others)]


def _ranked(panel: Panel, rules: _Rules) -> tuple[dict[str, dict[str, float]], tuple[Ranking, ...]]:
    """Case means over the labels that all methods have a value of, and the rankings by them."""
    means = _case_means(panel.values, ~np.isnan(panel.values).any(0))
    has = ~np.isnan(means).any(0)
    cases = np.array(panel.cases)[has]
    table = {
        name: dict(zip(map(str, cases), map(float, row[has]), strict=True))
        for name, row in zip(panel.names, means, strict=True)
    }
    if not has.any() or len(panel.methods) == 1:
        return table, ()
    return table, rankings(
        means[:, has],
        panel.names,
        panel.patients[has],
        higher=rules.higher,
        n_bootstrap=rules.n_bootstrap,
        seed=rules.seed,
    )


def _warnings(comparisons: Sequence[Comparison], n_patients: int) -> list[str]:
    """What the numbers of patients and of values left out mean for the results."""
    means = [c for c in comparisons if c.label == CASE_MEAN]
    n_pairs = min((c.n_pairs for c in means), default=MIN_PAIRS)
    n_one_sided = max((c.n_one_sided for c in means), default=0)
    found = {
        f"{n_pairs} pairs; with fewer than {MIN_PAIRS} no outcome of the test is significant (the smallest p "
        "of 5 pairs is 0.0625)": n_pairs < MIN_PAIRS,
        f"fewer than {FEW_PATIENTS} patients: the intervals are too narrow; of those of 10 patients, 12 % "
        "and not 5 % miss the truth": n_patients < FEW_PATIENTS,
        f"up to {n_one_sided} values left out where one method alone found a label that is not there; that "
        "error is not in these means": n_one_sided > 0,
    }
    return [text for text, applies in found.items() if applies]


def _case_means(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Means over the counted labels; NaN for cases without any. Shape: (..., N, L), (N, L) -> (..., N)"""
    n = np.broadcast_to(counted.sum(-1), values.shape[:-1])
    total = np.where(counted, values, 0.0).sum(-1)
    return np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)


def _summary(panel: Panel, m: int) -> MethodSummary:
    means = _case_means(panel.values[m], ~np.isnan(panel.values[m]))
    defined = means[~np.isnan(means)]
    folds = _fold_means(means, panel.folds[m])
    return MethodSummary(
        method=panel.names[m],
        full_name=str(panel.methods[m]),
        mean=_mean(defined),
        sd=_sd(defined),
        n_cases=defined.size,
        fold_means=folds,
        sd_over_folds=_sd(np.array(list(folds.values()))),
    )


def _fold_means(values: np.ndarray, folds: Sequence[str]) -> dict[str, float]:
    """The mean of each numbered fold that has a defined value."""
    of = np.array(folds)
    numbers = sorted({fold for fold in folds if fold.isdigit()}, key=int)
    means = {fold: _mean(values[(of == fold) & ~np.isnan(values)]) for fold in numbers}
    return {fold: mean for fold, mean in means.items() if not np.isnan(mean)}


def _comparison(
    panel: Panel, rules: _Rules, *, against: str, pair: tuple[int, int], column: int | None
) -> Comparison:
    """One pair of methods on one label, or on case means (column None)."""
    m, other = pair
    labels = slice(None) if column is None else slice(column, column + 1)
    a, b = panel.values[m][:, labels], panel.values[other][:, labels]
    counted = ~np.isnan(a) & ~np.isnan(b)
    mean_a, mean_b = _case_means(np.stack([a, b]), counted)
    has = counted.any(1)
    differences, patients = (mean_a - mean_b)[has], panel.patients[has]
    sums, sizes = by_patient(differences, patients)
    gains = sums / sizes if rules.higher else -sums / sizes
    low, high = mean_interval(differences, patients, n_bootstrap=rules.n_bootstrap, seed=rules.seed)
    number, name = (CASE_MEAN, "") if column is None else panel.labels[column]
    return Comparison(
        against=against,
        method=panel.names[m],
        other=panel.names[other],
        label=number,
        label_name=name,
        n_cases=int(has.sum()),
        n_pairs=len(gains),
        n_excluded=int((~counted).sum()),
        n_one_sided=int((np.isnan(a) != np.isnan(b)).sum()),
        mean=_mean(mean_a[has]),
        mean_other=_mean(mean_b[has]),
        difference=_mean(differences),
        ci_low=low,
        ci_high=high,
        fold_differences=_fold_means(mean_a - mean_b, panel.folds[m]),
        p=signed_rank_p(gains),
        rank_biserial=rank_biserial(gains),
        win_rate=win_rate(gains),
    )


def with_verdicts(comparisons: Iterable[Comparison], higher: bool) -> list[Comparison]:
    """Holm's correction within each family, and the verdicts that follow."""
    done = list(comparisons)
    for family in {c.family for c in done}:
        members = [i for i, c in enumerate(done) if c.family == family]
        n = sum(not np.isnan(done[i].p) for i in members)
        for i, p in zip(members, holm([done[i].p for i in members]), strict=True):
            done[i] = replace(done[i], p_holm=p, n_family=n)
    return [replace(c, verdict=verdict(c, higher)) for c in done]


def verdict(comparison: Comparison, higher: bool) -> str:
    """In words. "not better" states that no difference was shown, which is not that there is none."""
    if comparison.n_pairs < MIN_PAIRS:
        return "too few pairs"
    if not comparison.p_holm < ALPHA:
        return "not better"
    gain = comparison.difference if higher else -comparison.difference
    if gain * comparison.rank_biserial <= 0:
        return "mixed"  # most pairs say one thing and the mean another
    return "better" if gain > 0 else "worse"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")
