from dataclasses import replace

import pytest

from nnunet_mamba.study.statistics import compare
from nnunet_mamba.study.statistics.results import BASELINE, TWIN


@pytest.fixture
def result(make_scores):
    """MMUNet beats its twin, which beats nnUNet, in each of eight cases."""
    levels = {"": 0.7, "MMUNetNoSSM": 0.75, "MMUNet": 0.8}
    cases = {f"case_{i}": i / 100 for i in range(8)}
    scores = [
        score
        for trainer, level in levels.items()
        for score in make_scores(f"nnUNetTrainer{trainer}", {c: level + v for c, v in cases.items()})
    ]
    return compare(scores, n_bootstrap=100)[0]


def test_the_best_is_proven_only_if_it_won_all_of_its_tests(result):
    means = {m.method: m.mean for m in result.methods}
    lost = tuple(
        replace(c, verdict="not better") if c.against == TWIN.against else c for c in result.comparisons
    )
    assert result.find_significant_best(means) == "MMUNet"
    assert replace(result, comparisons=lost).find_significant_best(means) is None
    assert replace(result, comparisons=()).find_significant_best(means) is None
    assert result.find_significant_best({"MMUNet": float("nan")}) is None


def test_methods_are_ranked_in_the_direction_of_the_metric(result):
    names = [m.method for m in result.ranked_methods]
    assert names == ["MMUNet", "MMUNetNoSSM", "nnUNet"]
    flipped = replace(result, higher_is_better=False)
    assert [m.method for m in flipped.ranked_methods] == names[::-1]


def test_twins_come_before_the_baseline(result):
    assert result.families == [TWIN.against, BASELINE]
    assert result.twins == {"MMUNet": "MMUNetNoSSM"}
