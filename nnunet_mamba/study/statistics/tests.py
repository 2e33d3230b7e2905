"""Two methods on the same cases: signed rank test, its effect size, wins; and Holm's correction.

A gain is the difference of two methods, turned so that more is better.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

MIN_PAIRS = 6  # below, the smallest p of the two-sided test is 2 / 2**5 = 0.0625
DECIMALS = 12  # 0.9 - 0.8 and 0.8 - 0.7 are a tie, which binary fractions would hide


def signed_rank_p(gains: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed rank test, the ranks of zeros halved [1].

    As scipy computes it: exactly up to 50 gains (with ties or zeros, up to 13), by the normal approximation
    beyond. NaN without gains, 1 where none differs from 0.

    [1] Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, JASA 54 (1959); "zsplit".
    """
    gains = np.round(gains, DECIMALS)
    if not gains.size:
        return float("nan")
    return float(stats.wilcoxon(gains, zero_method="zsplit").pvalue) if gains.any() else 1.0


def rank_biserial(gains: np.ndarray) -> float:
    """(W+ - W-) / (W+ + W-), the matched-pairs rank-biserial correlation of the same ranks [1].

    1: every pair is a gain, -1: every pair a loss.

    [1] Kerby, The simple difference formula, Comprehensive Psychology 3 (2014).
    """
    gains = np.round(gains, DECIMALS)
    ranks = stats.rankdata(np.abs(gains))
    return float((np.sign(gains) * ranks).sum() / ranks.sum()) if gains.size else float("nan")


def win_rate(gains: np.ndarray) -> float:
    """The share of pairs that are gains; a tie is half a win."""
    return float((np.sign(np.round(gains, DECIMALS)) + 1).mean() / 2) if gains.size else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p: the i-th smallest of m times (m - i + 1), never below its predecessor, at most 1.

    NaN (nothing could be tested) stays NaN and does not count in m.
    """
    p = np.array(p_values, dtype=float)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    factors = np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in p]
