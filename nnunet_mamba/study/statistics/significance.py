"""Tests and intervals for the differences of two methods on the same cases.

Signed rank test, its effect size, share of wins, Holm's correction; BCa bootstrap intervals of a mean whose
cases are clustered by patient. A gain is the difference of two methods, signed so that more is better. B
resamples of n patients; a patient brings all of its cases.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

MIN_PAIRS = 6  # below, the smallest p of the two-sided test is 2 / 2**5 = 0.0625
DECIMALS = 12  # 0.9 - 0.8 and 0.8 - 0.7 are a tie, which binary fractions would hide
LEVEL = 0.95
CHUNK = 1000  # resamples drawn at once: the memory of drawing stays below that of the result


def signed_rank_p(gains: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed rank test, the ranks of zeros halved [1].

    As scipy computes it: exactly up to 50 gains (with ties or zeros, up to 13), by the normal approximation
    beyond. NaN without gains, 1 if all are 0.

    [1] Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, JASA 54 (1959); "zsplit".
    """
    from scipy.stats import wilcoxon

    gains = np.round(gains, DECIMALS)
    if not gains.size:
        return float("nan")
    return float(wilcoxon(gains, zero_method="zsplit").pvalue) if gains.any() else 1.0


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


@lru_cache(maxsize=4)  # labels and methods mostly have the same number of patients
def resample_counts(n_patients: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Return how often each patient is drawn, with replacement. Shape: (B, n), read-only."""
    rng = np.random.default_rng(seed)
    counts = np.empty((n_bootstrap, n_patients))
    for start in range(0, n_bootstrap, CHUNK):
        part = counts[start : start + CHUNK]
        drawn = rng.integers(0, n_patients, part.shape) + n_patients * np.arange(len(part))[:, None]
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    counts.flags.writeable = False
    return counts


def sum_by_patient(values: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of each patient's values, patients in sorted order."""
    _, index = np.unique(patients, return_inverse=True)
    return np.bincount(index, values), np.bincount(index).astype(float)


def mean_interval(
    values: np.ndarray, patients: np.ndarray, *, n_bootstrap: int, seed: int, level: float = LEVEL
) -> tuple[float, float]:
    """Return the BCa interval of the mean over cases when patients are resampled; NaN below 2 patients.

    Shape: values, patients (N,): a number for each case, and its patient
    """
    sums, sizes = sum_by_patient(values, patients)
    if len(sums) < 2:
        return float("nan"), float("nan")
    counts = resample_counts(len(sums), n_bootstrap, seed)
    replicates = (counts @ sums) / (counts @ sizes)
    without_one = (sums.sum() - sums) / (sizes.sum() - sizes)  # jackknife over patients
    return bca(replicates, float(values.mean()), without_one, level)


def bca(
    replicates: np.ndarray, estimate: float, jackknife: np.ndarray, level: float = LEVEL
) -> tuple[float, float]:
    """Return bias-corrected and accelerated percentiles [1, eq. 14.9 to 14.15].

    [1] Efron and Tibshirani, An introduction to the bootstrap (1993), ch. 14.
    """
    beyond = np.round(replicates - estimate, 12)
    share_below = ((beyond < 0).mean() + (beyond <= 0).mean()) / 2
    z0 = ndtri(np.clip(share_below, 0.5 / len(replicates), 1 - 0.5 / len(replicates)))
    d = jackknife.mean() - jackknife
    acceleration = (d**3).sum() / (6 * (d**2).sum() ** 1.5) if d.any() else 0.0
    z = z0 + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(replicates, ndtr(z0 + z / (1 - acceleration * z)))
    return float(low), float(high)
