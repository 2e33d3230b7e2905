"""Signed ranks, wins, Holm, equivalence and false claims with answers worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from bootstrap_mean import bootstrap_mean
from scipy import stats

from nnunet_mamba.study.statistics.bootstrap import Replicates
from nnunet_mamba.study.statistics.significance import (
    difference_p,
    equivalence_p,
    false_claim_p,
    false_claim_probability,
    holm,
    rank_biserial,
    sd_of_differences,
    signed_rank_p,
    win_rate,
)


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


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_with_several_seeds_a_false_claim_is_as_likely_as_the_trainings_have_it(n_seeds):
    """Eight gains of which nothing is in doubt, and replicates of which a quarter are losses."""
    gains = np.arange(1.0, 9)
    replicates = Replicates(np.repeat([-1.0, 3.0, 6.0, 10.0], 100), 4.5, np.array([4.0, 5.0]))
    posterior = false_claim_probability(gains.mean(), gains.std(ddof=1), 8)
    assert posterior < 0.01
    expected = posterior if n_seeds == 1 else 0.25
    for signed in (gains, -gains):
        assert false_claim_p(signed, replicates, n_seeds) == pytest.approx(expected)
    assert np.isnan(false_claim_p(gains[:1], replicates, n_seeds))


@pytest.mark.parametrize("n_seeds, p", [(1, 2 / 2**8), (2, 0.5)])
def test_with_several_seeds_the_trainings_must_show_the_difference_too(n_seeds, p):
    """Eight gains, and replicates of which a quarter are losses, symmetric about the mean."""
    gains = np.arange(1.0, 9)
    replicates = Replicates(np.repeat([-1.0, 3.0, 6.0, 10.0], 100), 4.5, np.array([4.0, 5.0]))
    assert difference_p(gains, replicates, n_seeds) == pytest.approx(p)
    assert difference_p(-gains, replace(replicates, values=-replicates.values, estimate=-4.5), n_seeds) == (
        pytest.approx(p)
    )


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


# Equivalence


def equivalence(gains, margin):
    gains = np.array(gains)
    return equivalence_p(gains, bootstrap_mean(gains, np.arange(gains.size)), margin)


def test_gains_that_are_all_within_the_margin_by_hand():
    """Eight pairs on one side of either margin: one sign in 2**8. The bootstrap cannot be the larger."""
    gains = [0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.07, -0.08]
    assert equivalence(gains, 0.1) == pytest.approx(1 / 2**8)
    assert equivalence(gains[:5], 0.1) == pytest.approx(1 / 2**5)


def test_gains_at_the_margin_are_as_likely_beyond_it():
    gains = np.array([1, -2, 3, -4, 5, -6, 7, -8, 4.0]) / 100  # their ranks balance: W+ = W- = 22.5
    assert signed_rank_p(gains) == pytest.approx(1)
    assert equivalence(gains + 0.2, 0.2) > 0.45
    assert equivalence(gains - 0.2, 0.2) > 0.45
    assert equivalence(gains + 0.4, 0.2) > 0.99


def test_the_bootstrap_decides_where_ranks_do_not_see_the_mean():
    """Nineteen gains of nothing, and a disaster that alone moves the mean to the margin."""
    gains = np.r_[np.linspace(-0.001, 0.001, 19), -0.4]
    replicates = bootstrap_mean(gains, np.arange(20))
    of_ranks = max(signed_rank_p(gains + 0.02, "greater"), signed_rank_p(gains - 0.02, "less"))
    assert of_ranks < 0.001
    assert equivalence_p(gains, replicates, 0.02) == replicates.p_above(-0.02) > 0.3


def test_equivalence_needs_a_margin_and_pairs():
    assert np.isnan(equivalence([0.1] * 8, float("nan")))
    assert np.isnan(equivalence([], 0.1))


# False claims


def test_a_false_claim_of_two_pairs_by_hand():
    """t of one degree of freedom is Cauchy's: a quarter lies beyond 1."""
    assert false_claim_probability(1 / 2**0.5, 1.0, 2) == pytest.approx(0.25)
    assert false_claim_probability(-1 / 2**0.5, 1.0, 2) == pytest.approx(0.25)  # whichever looks better


def test_a_false_claim_is_as_likely_as_the_one_sided_p_of_the_paired_t_test():
    x = np.random.default_rng(0).normal(0.3, 1, 25)
    expected = stats.ttest_1samp(x, 0, alternative="greater").pvalue
    assert false_claim_probability(x.mean(), x.std(ddof=1), 25) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mean", "sd", "n", "expected"),
    [(0.0, 1.0, 9, 0.5), (0.0, 0.0, 9, 0.5), (0.1, 0.0, 9, 0.0), (0.1, 1.0, 1, np.nan)],
)
def test_false_claims_at_the_ends(mean, sd, n, expected):
    assert false_claim_probability(mean, sd, n) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("correlation", "sd"), [(0.0, 5.0), (0.5, 13**0.5), (1.0, 1.0), (-1.0, 7.0)])
def test_sd_of_differences_by_hand(correlation, sd):
    assert sd_of_differences(3.0, 4.0, correlation) == pytest.approx(sd)
    assert sd_of_differences(0.1, 0.1, 1.0) == pytest.approx(0, abs=1e-8)
