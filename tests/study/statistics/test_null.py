"""Where there is no difference, errors are as rare as stated; with fixed seeds, and margins of 3 SD."""

from math import sqrt

import numpy as np
import pytest

from nnunet_mamba.study.statistics import compare
from nnunet_mamba.study.statistics.significance import holm, mean_interval, signed_rank_p

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
