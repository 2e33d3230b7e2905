"""Signed ranks, wins and Holm, with answers worked by hand."""

import numpy as np
import pytest
from scipy import stats

from nnunet_mamba.study.statistics.paired import holm, rank_biserial, signed_rank_p, win_rate


@pytest.mark.parametrize(
    ("gains", "p", "r"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 2**6, 1.0),
        ([-1, -2, -3, -4, -5, -6], 2 / 2**6, -1.0),
        ([1, 2, 3, 4, 5], 2 / 2**5, 1.0),  # the best that 5 pairs can do
        ([1, 2, 3, 4, 5, -6], 2 * 14 / 2**6, 9 / 21),  # 14 subsets of 1..6 have a sum of at most 6
        ([0, 1, 2, 3, 4, 5], 2 / 2**5, 20 / 21),  # a zero decides nothing
        ([1, 1, -1, -1], 1.0, 0.0),
        ([0, 0, 0], 1.0, 0.0),
    ],
)
def test_small_samples_by_hand(gains, p, r):
    assert signed_rank_p(np.array(gains, float)) == pytest.approx(p)
    assert rank_biserial(np.array(gains, float)) == pytest.approx(r, nan_ok=True)


def test_p_is_what_one_call_of_scipy_gives():
    gains = np.random.default_rng(1).normal(0.2, 1, 80)
    gains[:20] = 0
    assert signed_rank_p(gains) == pytest.approx(stats.wilcoxon(gains, zero_method="zsplit").pvalue)


def test_equal_steps_are_ties_whatever_their_binary_fractions():
    assert 0.9 - 0.8 != 0.8 - 0.7
    assert rank_biserial(np.array([0.9 - 0.8, 0.7 - 0.8])) == 0
    assert win_rate(np.array([0.3 - 0.2 - 0.1])) == 0.5


def test_a_tie_is_half_a_win():
    assert win_rate(np.array([1.0, 2.0, 0.0, -1.0])) == 2.5 / 4


def test_nothing_to_compare_is_nan():
    nothing = np.array([])
    assert all(np.isnan(f(nothing)) for f in (signed_rank_p, rank_biserial, win_rate))


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x 0.005, 3 x 0.01, 2 x 0.03, then no less
        ([0.04, 0.5], [0.08, 0.5]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, float("nan"), 0.04], [0.04, float("nan"), 0.04]),  # two tests, not three
        ([], []),
    ],
)
def test_holm_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(adjusted, nan_ok=True)
