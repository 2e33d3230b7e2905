"""Bootstrap of patients and trainings: intervals against scipy's, by clusters, by seeds."""

import numpy as np
import pytest
from bootstrap_mean import bootstrap_mean, mean_interval
from scipy import stats

from nnunet_mamba.study.statistics.bootstrap import (
    Replicates,
    Trainings,
    bootstrap_difference,
    resample_counts,
    resample_trainings,
)


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
    low, high = Replicates(np.linspace(1, 2, 100), 0.0, np.array([1.0, 2.0, 4.0])).interval()
    assert 1 <= low <= high <= 2


@pytest.mark.parametrize("level", [0.9, 0.5])
def test_one_sided_p_are_those_of_the_interval_that_ends_there(level):
    values = np.random.default_rng(5).exponential(size=25)
    found = bootstrap_mean(values, np.arange(25), n_bootstrap=10_000)
    low, high = found.interval(level)
    assert (found.p_above(low), found.p_below(high)) == pytest.approx([(1 - level) / 2] * 2, rel=0.01)
    assert found.p_above(low) + found.p_below(low) == pytest.approx(1)


def test_no_p_is_0_nor_that_of_one_patient_a_number():
    found = bootstrap_mean(np.full(8, 0.1), np.arange(8), n_bootstrap=100)
    assert found.p_above(0.0) == pytest.approx(0.5 / 100)
    assert np.isnan(bootstrap_mean(np.array([0.1, 0.2]), np.array(["a", "a"])).p_above(0.0))


# Seeds


def make_trainings(by_seed_and_fold, folds, stream=0):
    """Trainings whose cases differ by the training alone."""
    return Trainings(np.array([[row[f] for f in folds] for row in by_seed_and_fold], float), folds, stream)


@pytest.mark.parametrize(("folds", "means"), [([0, 0, 0, 0], {0.0: 1 / 2, 1.0: 1 / 2}), ([0, 1] * 50, None)])
def test_trainings_are_drawn_within_their_folds(folds, means):
    """Of two seeds, 0 and 1, one is drawn in each fold: with two folds both are 0 in a quarter."""
    method = make_trainings([[0, 0], [1, 1]], folds)
    zero = Trainings(np.zeros((1, len(folds))), folds)
    found = bootstrap_difference(method, zero, np.arange(len(folds)), n_bootstrap=1000, seed=0)
    assert found.estimate == 0.5
    if means:
        assert {v: np.mean(found.values == v) for v in means} == pytest.approx(means, abs=0.05)
    else:
        shares = [np.mean(found.values == v) for v in (0.0, 1.0)]
        assert shares == pytest.approx([1 / 4, 1 / 4], abs=0.05)


def test_the_mean_of_the_trainings_drawn_varies_as_that_of_as_many_trainings():
    for n_seeds in (2, 3, 5):
        shares = resample_trainings(2, n_seeds, 20_000, (0, 0))
        assert shares.sum(2) == pytest.approx(np.ones((20_000, 2)))
        values = np.random.default_rng(1).normal(size=n_seeds)
        expected = values.var(ddof=1) / n_seeds
        assert (shares[:, 0] @ values).var() == pytest.approx(expected, rel=0.05)


def test_one_network_under_two_conditions_is_drawn_as_one():
    """Noise costs every training the same: trainings that differ say nothing about that."""
    rng = np.random.default_rng(2)
    folds, values = ["0", "1"] * 5, rng.normal(size=(3, 10))
    clean = Trainings(values, folds, stream=4)
    for stream, is_constant in ((4, True), (5, False)):
        noisy = Trainings(values - 0.1, folds, stream)
        found = bootstrap_difference(clean, noisy, np.arange(10), n_bootstrap=200, seed=0)
        assert np.allclose(found.values, 0.1) == is_constant
