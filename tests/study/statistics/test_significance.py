"""Signed ranks, wins and Holm with answers worked by hand; intervals against scipy's, and by clusters."""

import numpy as np
import pytest
from scipy import stats

from nnunet_mamba.study.statistics.significance import (
    bca,
    holm,
    mean_interval,
    rank_biserial,
    resample_counts,
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


# Intervals


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("seed", [0, 3])
def test_without_clusters_it_is_scipys_bca(seed, level):
    """The same resamples, drawn by the same generator."""
    values = np.random.default_rng(5).exponential(size=25)  # skewed, so that bias and acceleration matter
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=1000,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    own = mean_interval(values, np.arange(25), n_bootstrap=1000, seed=seed, level=level)
    assert own == pytest.approx(tuple(expected), rel=1e-9)


def test_with_clusters_it_is_scipys_bca_of_a_ratio():
    """A mean over cases is the ratio of two sums over patients, which scipy resamples as pairs."""
    rng = np.random.default_rng(6)
    sizes = rng.integers(1, 6, 20)
    patients = np.repeat(np.arange(20), sizes)
    values = rng.exponential(size=20)[patients] * rng.exponential(size=patients.size)
    expected = stats.bootstrap(
        (np.bincount(patients, values), sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    own = mean_interval(values, patients, n_bootstrap=1000, seed=0)
    assert own == pytest.approx(tuple(expected), rel=1e-9)


def test_a_patient_seen_twice_tells_nothing_new():
    values = np.random.default_rng(5).exponential(size=25)
    once = mean_interval(values, np.arange(25), n_bootstrap=1000, seed=0)
    twice = mean_interval(np.repeat(values, 2), np.repeat(np.arange(25), 2), n_bootstrap=1000, seed=0)
    assert twice == pytest.approx(once)


def test_patients_of_different_size_weigh_by_their_cases():
    """Two patients, of 3 cases at 0 and 1 case at 1: resamples have means 0, 1/4, 1/4 and 1."""
    counts = resample_counts(2, 1000, seed=0)
    means = (counts @ [0.0, 1.0]) / (counts @ [3.0, 1.0])
    assert set(means.tolist()) == {0.0, 0.25, 1.0}
    assert np.mean(means == 0.25) == pytest.approx(0.5, abs=0.05)
    low, high = mean_interval(np.array([0.0, 0, 0, 1]), np.array(list("aaab")), n_bootstrap=1000, seed=0)
    assert (low, high) == (0.0, 1.0)


def test_each_resample_has_as_many_patients_as_there_are():
    counts = resample_counts(7, 2500, seed=1)
    assert counts.shape == (2500, 7)
    assert (counts.sum(1) == 7).all()


def test_degenerate_samples():
    assert np.isnan(mean_interval(np.array([0.3, 0.4]), np.array(["a", "a"]), n_bootstrap=100, seed=0)).all()
    same = mean_interval(np.full(8, 0.1), np.arange(8), n_bootstrap=100, seed=0)
    assert same == pytest.approx((0.1, 0.1))


def test_an_estimate_below_every_resample_has_an_interval_of_numbers():
    low, high = bca(np.linspace(1, 2, 100), 0.0, jackknife=np.array([1.0, 2.0, 4.0]))
    assert 1 <= low <= high <= 2
