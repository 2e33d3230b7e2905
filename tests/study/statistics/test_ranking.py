"""Rankings of three methods on four cases, worked by hand."""

import numpy as np
import pytest
from scipy import stats

from nnunet_mamba.study.statistics.ranking import kendall_tau, rank_methods

#         a is best on three cases and fails on the last
VALUES = np.array([[0.9, 0.9, 0.9, 0.1], [0.8, 0.8, 0.8, 0.8], [0.7, 0.7, 0.7, 0.9]])
CASES = np.array(["1", "2", "3", "4"])


def ranked(values=VALUES, higher=True, patients=CASES, names="abc"):
    return rank_methods(values, list(names), patients, higher=higher, n_bootstrap=2000, seed=0)


def test_the_two_rules_can_disagree():
    means, ranks = ranked()
    assert [(p.method, p.rank) for p in means.places] == [("b", 1), ("c", 2), ("a", 3)]
    assert [p.value for p in means.places] == pytest.approx([0.8, 0.75, 0.7])
    assert [(p.method, p.rank) for p in ranks.places] == [("a", 1), ("b", 2), ("c", 3)]
    assert [p.value for p in ranks.places] == pytest.approx([1.5, 2.0, 2.5])


def test_of_distances_less_is_better():
    means, ranks = ranked(higher=False)
    assert [p.method for p in means.places] == ["a", "c", "b"]
    assert [p.method for p in ranks.places] == ["c", "b", "a"]


def test_methods_alike_share_the_better_rank():
    means, ranks = ranked(np.array([[0.5, 0.5], [0.9, 0.9], [0.5, 0.5]]), patients=np.array(["1", "2"]))
    assert [(p.method, p.rank) for p in means.places] == [("b", 1), ("a", 2), ("c", 2)]
    assert [(p.method, p.value) for p in ranks.places] == [("b", 1), ("a", 2.5), ("c", 2.5)]
    backwards, _ = ranked(np.array([[0.5, 0.5], [0.9, 0.9], [0.5, 0.5]]), patients=CASES[:2], names="cba")
    assert [p.method for p in backwards.places] == ["b", "a", "c"]  # ties by name


def test_the_smallest_difference_of_a_table_decides_and_that_of_binary_fractions_does_not():
    values = np.array([[0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2], [0.3001, 0.3001]])
    means, ranks = ranked(values, patients=CASES[:2])
    assert values[0, 0] != values[1, 0]
    for ranking in (means, ranks):
        assert [(p.method, p.rank) for p in ranking.places] == [("c", 1), ("a", 2), ("b", 2)]


def test_ranks_and_tau_range_over_95_percent_of_the_resamples():
    """b beats a only where patient 3 is drawn three times: in 1/27 = 3.7 % of them, which is within."""
    means, _ = ranked(np.array([[0.9, 0.9, 0.5], [0.5, 0.5, 0.6]]), patients=CASES[:3], names="ab")
    assert [(p.method, p.rank_low, p.rank_high) for p in means.places] == [("a", 1, 2), ("b", 1, 2)]
    assert (means.tau_low, means.tau_high) == (-1, 1)


def test_shares_of_ranks_by_hand():
    """a leads by mean only where case 4 is not drawn: with probability (3/4)^4 = 0.316."""
    means, _ = ranked()
    a = next(p for p in means.places if p.method == "a")
    assert a.rank_shares[0] == pytest.approx(0.75**4, abs=0.035)
    assert all(sum(p.rank_shares) == pytest.approx(1) for p in means.places)
    assert (a.rank_low, a.rank_high) == (1, 3)


def test_one_patient_cannot_change_the_ranking():
    means, ranks = ranked(patients=np.array(["1"] * 4))
    assert (means.tau, means.tau_low, ranks.tau) == (1, 1, 1)


def test_kendall_tau_is_scipys():
    rng = np.random.default_rng(0)
    ranks, others = rng.integers(1, 6, 6), rng.integers(1, 6, (20, 6))
    expected = [stats.kendalltau(ranks, other).statistic for other in others]
    assert kendall_tau(ranks, others) == pytest.approx(expected)
    assert np.isnan(kendall_tau(ranks, np.ones((1, 6)))).all()
