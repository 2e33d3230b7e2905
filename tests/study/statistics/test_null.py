"""Where there is no difference, errors are as rare as stated; with fixed seeds, and margins of 3 SD."""

from math import sqrt

import numpy as np
import pytest
from bootstrap_mean import bootstrap_mean, mean_interval

from nnunet_mamba.study.statistics import compare
from nnunet_mamba.study.statistics.bootstrap import Trainings, bootstrap_difference
from nnunet_mamba.study.statistics.significance import (
    difference_p,
    equivalence_p,
    false_claim_probability,
    holm,
    signed_rank_p,
)

ALPHA = 0.05


def margin(n: int, rate: float = ALPHA) -> float:
    return 3 * sqrt(rate * (1 - rate) / n)


def frames(rng, n_patients, n_frames, shared=0.9):
    """Differences without effect; `shared` of the variance is the patient's. Shape: (n_patients, n_frames)"""
    own = rng.normal(size=(n_patients, n_frames))
    return sqrt(shared) * rng.normal(size=(n_patients, 1)) + sqrt(1 - shared) * own


def test_families_of_tests_hold_the_level():
    """Five methods without a difference against one baseline: one false claim or more in 5 % of families."""
    rng = np.random.default_rng(0)
    n = 400
    families = rng.normal(size=(n, 5, 20)) - rng.normal(size=(n, 1, 20))  # they share the baseline's noise
    p = [[signed_rank_p(gains) for gains in family] for family in families]
    assert np.mean([min(holm(each)) < ALPHA for each in p]) < ALPHA + margin(n)
    assert np.mean(np.min(p, axis=1) < ALPHA) > ALPHA + margin(n)  # uncorrected, there are more


def test_with_correlated_frames_only_patients_hold_the_level():
    rng = np.random.default_rng(1)
    n = 600
    samples = [frames(rng, 15, 3) for _ in range(n)]
    by_patient = np.mean([signed_rank_p(s.mean(1)) < ALPHA for s in samples])
    by_frame = np.mean([signed_rank_p(s.ravel()) < ALPHA for s in samples])
    assert abs(by_patient - ALPHA) < margin(n)
    assert by_frame > 3 * ALPHA


def test_clustered_intervals_cover_where_naive_ones_do_not():
    rng = np.random.default_rng(2)
    n, patients = 500, np.repeat(np.arange(40), 3)
    samples = [frames(rng, 40, 3).ravel() for _ in range(n)]
    missed = {
        name: np.mean([not covers(s, groups) for s in samples])
        for name, groups in (("clustered", patients), ("naive", np.arange(120)))
    }
    assert missed["clustered"] < ALPHA + margin(n)
    assert missed["naive"] > 3 * ALPHA


def covers(values, patients, truth=0.0):
    low, high = mean_interval(values, patients, n_bootstrap=1000, seed=0)
    return low <= truth <= high


def equivalence(gains, bound):
    return equivalence_p(gains, bootstrap_mean(gains, np.arange(gains.size), n_bootstrap=500), bound)


def test_differences_at_the_margin_are_rarely_called_equivalent():
    rng = np.random.default_rng(4)
    n = 300
    samples = rng.normal(size=(n, 20)) + rng.choice([-2, 2], (n, 1))  # the margin is 2 SD
    assert np.mean([equivalence(gains, 2.0) < ALPHA for gains in samples]) < ALPHA + margin(n)


def test_equal_methods_are_mostly_called_equivalent():
    """SE 0.158, a margin of 3.8 SE: between 1.64 SE from either end lie 97 % of the means."""
    samples = np.random.default_rng(5).normal(size=(200, 40))
    assert np.mean([equivalence(gains, 0.6) < ALPHA for gains in samples]) > 0.9


def test_skewed_differences_at_the_margin_too_which_ranks_alone_call_equivalent():
    n = 200
    samples = np.random.default_rng(6).exponential(size=(n, 40)) - 1 + 3
    assert np.mean([equivalence(gains, 3.0) < ALPHA for gains in samples]) < ALPHA + margin(n) + 0.02
    assert np.mean([signed_rank_p(gains - 3.0, "less") < ALPHA for gains in samples]) > 4 * ALPHA


def test_false_claims_are_as_frequent_as_stated():
    """Means without a preferred size, as the prior has it; those said to be false at 2 to 20 % are."""
    rng = np.random.default_rng(7)
    n, pairs = 3000, 10
    truth = rng.uniform(-3, 3, n)
    x = truth[:, None] + rng.normal(size=(n, pairs))
    stated = np.array(
        [false_claim_probability(*each, pairs) for each in zip(x.mean(1), x.std(1, ddof=1), strict=True)]
    )
    unsure = (stated > 0.02) & (stated < 0.2)
    was_false = (np.sign(x.mean(1)) != np.sign(truth))[unsure]
    assert abs(was_false.mean() - stated[unsure].mean()) < margin(unsure.sum(), stated[unsure].mean())


def simulate_seeds(rng, n_patients, n_folds, n_seeds, noise):
    """Two methods that differ by the noise of their trainings and of each patient; SD of that 0.3 and 1."""
    folds = np.arange(n_patients) % n_folds
    shared = rng.normal(size=n_patients)
    for stream in range(2):
        trained = rng.normal(0, noise, (n_seeds, n_folds))[:, folds]
        values = trained + rng.normal(0, 0.3, trained.shape) + (stream == 0) * shared
        yield Trainings(values, folds, stream)


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_intervals_and_tests_know_how_far_another_seed_moves_the_result(n_seeds):
    """Trainings whose means vary as much as those of 30 patients: an interval of the means knows half."""
    rng = np.random.default_rng(8)
    n, patients, missed = 300, np.arange(30), {"seeds": 0, "means": 0}
    claims = np.zeros(2)
    for _ in range(n):
        pair = list(simulate_seeds(rng, 30, 5, n_seeds, noise=(5 / 30) ** 0.5))
        means = [Trainings(each.values.mean(0)[None], each.folds) for each in pair]
        for name, (method, other) in {"means": means, "seeds": pair}.items():
            found = bootstrap_difference(method, other, patients, n_bootstrap=500, seed=0)
            low, high = found.interval()
            missed[name] += not low <= 0 <= high
        gains = (means[0].values - means[1].values)[0]
        claims += [difference_p(gains, found, n_seeds) < ALPHA, signed_rank_p(gains) < ALPHA]
    assert missed["seeds"] / n < ALPHA + margin(n)
    assert missed["means"] / n > ALPHA + margin(n)
    assert claims[0] / n < ALPHA + margin(n) < claims[1] / n


@pytest.mark.slow
def test_whole_comparisons_hold_the_level(make_scores):
    """Twins and a baseline that differ by noise alone, two correlated frames of 15 patients, five labels."""
    rng = np.random.default_rng(3)
    cases = [f"patient{p}_frame{f}" for p in range(15) for f in range(2)]
    n, claims = 300, []
    for _ in range(n):
        scores = []
        for trainer in ("", "A", "ANoSSM", "B"):
            patients = np.repeat(rng.normal(0.8, 0.03, (15, 5)), 2, axis=0)
            values = dict(zip(cases, patients + rng.normal(0, 0.01, (30, 5)), strict=True))
            scores += make_scores(f"nnUNetTrainer{trainer}", values)
        (study,) = compare(scores, group=r"patient\d+", n_bootstrap=100)
        families = {c.family for c in study.comparisons}
        claims.append([any(c.p_holm < ALPHA for c in study.comparisons if c.family == f) for f in families])
    assert (np.mean(claims, axis=0) < ALPHA + margin(n)).all()
