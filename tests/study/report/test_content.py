from dataclasses import replace

import pytest

from nnunet_mamba.study.report.content import find_significant_best, format_folds
from nnunet_mamba.study.statistics.results import CASE_MEAN, TWIN


def test_the_best_is_not_bold_if_one_of_its_tests_is_not_won(tiny):
    study = tiny.leading
    means = {m.method: m.mean for m in study.methods}
    lost = tuple(replace(c, verdict="not better") if c.against == TWIN else c for c in study.comparisons)
    assert find_significant_best(study, means, CASE_MEAN) == "MMUNet"
    assert find_significant_best(replace(study, comparisons=lost), means, CASE_MEAN) is None


@pytest.mark.parametrize(
    ("folds", "expected"),
    [("43210", "0 to 4"), ("01", "0, 1"), ("024", "0, 2, 4"), (["all", "0"], "0, all"), ([""], "")],
)
def test_folds_in_a_row_are_shortened(folds, expected):
    assert format_folds(folds) == expected
