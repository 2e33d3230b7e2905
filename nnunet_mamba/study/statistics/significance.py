"""Tests for the differences of two methods on the same cases.

Signed rank test, its effect size, share of wins, Holm's correction; equivalence within a margin; the
probability that a claim of superiority is false. A gain is the difference of two methods, signed so that more
is better.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from nnunet_mamba.study.statistics.bootstrap import DECIMALS, Replicates

MIN_PAIRS = 6  # below, the smallest p of the two-sided test is 2 / 2**5 = 0.0625
EQUIVALENCE_LEVEL = 0.9  # of the interval that two one-sided tests at 0.05 correspond to


def signed_rank_p(gains: np.ndarray, alternative: str = "two-sided") -> float:
    """Return the p of Wilcoxon's signed rank test, the ranks of zeros halved [1].

    As scipy computes it: exactly up to 50 gains (with ties or zeros, up to 13), by the normal approximation
    beyond. NaN without gains, 1 if all are 0. `alternative`: two-sided, greater or less.

    [1] Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, JASA 54 (1959); "zsplit".
    """
    from scipy.stats import wilcoxon

    gains = np.round(gains, DECIMALS)
    if not gains.size:
        return float("nan")
    if not gains.any():
        return 1.0
    return float(wilcoxon(gains, zero_method="zsplit", alternative=alternative).pvalue)


def difference_p(gains: np.ndarray, replicates: Replicates, n_seeds: int) -> float:
    """Return the two-sided p of a difference: of the signed rank test; with several seeds the larger of it
    and that of the BCa replicates.

    The signed rank test knows the patients of these trainings alone, and claims differences of equal methods
    too often where trainings vary much; the replicates know both. NaN without gains.
    """
    p = signed_rank_p(gains)
    if n_seeds == 1:
        return p
    return float(np.max([p, 2 * min(replicates.p_above(0.0), replicates.p_below(0.0))]))


def false_claim_p(gains: np.ndarray, replicates: Replicates, n_seeds: int) -> float:
    """Return `false_claim_probability` of these gains; with several seeds the larger of it and the share of
    the BCa replicates that favour the other method, since they know the trainings."""
    if len(gains) < 2:
        return float("nan")
    p = false_claim_probability(float(gains.mean()), float(gains.std(ddof=1)), len(gains))
    return p if n_seeds == 1 else max(p, min(replicates.p_above(0.0), replicates.p_below(0.0)))


def equivalence_p(gains: np.ndarray, replicates: Replicates, margin: float) -> float:
    """Return the p of two one-sided tests: that the difference lies between -margin and margin [1].

    The largest of four: signed rank tests of the gains moved by the margin, which know nothing of skewed
    gains, and tests by the BCa replicates of the mean, which are too bold with few patients; an outcome that
    all four claim is at most as often false as with the best of them. NaN without pairs, or a margin.

    [1] Schuirmann, A comparison of the two one-sided tests procedure and the power approach for assessing the
        equivalence of average bioavailability, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    if np.isnan(margin):
        return float("nan")
    of_ranks = (signed_rank_p(gains + margin, "greater"), signed_rank_p(gains - margin, "less"))
    of_means = (replicates.p_above(-margin), replicates.p_below(margin))
    return float(np.max([*of_ranks, *of_means]))


def false_claim_probability(mean: float, sd: float, n: int) -> float:
    """Return the probability that the method of the better mean is not truly better [1].

    Of n paired differences with this mean and SD, which are taken to be normal. With the reference prior,
    p(mean, sd) ~ 1 / sd, the posterior of the true mean is mean + t sd / sqrt(n), t of n - 1 degrees of
    freedom; the result is its share on the other side of 0. NaN below 2 pairs.

    [1] Christodoulou et al., False promises in medical imaging AI?, arXiv:2505.04720.
    """
    from scipy.stats import t

    if n < 2 or np.isnan(mean):
        return float("nan")
    if sd == 0:
        return 0.5 if mean == 0 else 0.0
    return float(t.sf(abs(mean) * sqrt(n) / sd, n - 1))


def sd_of_differences(sd: float, other_sd: float, correlation: float) -> float:
    """Return the SD of paired differences, by the SDs of both methods and their correlation over cases."""
    return sqrt(max(0.0, sd**2 + other_sd**2 - 2 * correlation * sd * other_sd))


def rank_biserial(gains: np.ndarray) -> float:
    """Return (W+ - W-) / (W+ + W-), the matched-pairs rank-biserial correlation of the same ranks [1].

    1: every pair is a gain, -1: every pair a loss.

    [1] Kerby, The simple difference formula, Comprehensive Psychology 3 (2014).
    """
    from scipy.stats import rankdata

    gains = np.round(gains, DECIMALS)
    ranks = rankdata(np.abs(gains))
    return float((np.sign(gains) * ranks).sum() / ranks.sum()) if gains.size else float("nan")


def win_rate(gains: np.ndarray) -> float:
    """Return the share of pairs that are gains; a tie is half a win."""
    return float((np.sign(np.round(gains, DECIMALS)) + 1).mean() / 2) if gains.size else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p: the i-th smallest of m times (m - i + 1), non-decreasing, at most 1.

    NaN (no test was possible) stays NaN and does not count in m.
    """
    p = np.array(p_values, dtype=float)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    factors = np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in p]
