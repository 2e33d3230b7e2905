from dataclasses import replace
from math import isnan, nan

import pytest

from nnunet_mamba.study.evaluation import Score
from nnunet_mamba.study.sweep.average import average_tables

SCORE = Score("case_1", "1", "organ", "dice", 0.5, 10, "", trainer="A", fold="0", protocol="honest")


def test_values_of_seeds_are_averaged_case_by_case():
    tables = [[replace(SCORE, value=v), replace(SCORE, case="case_2", value=2 * v)] for v in (0.2, 0.4, 0.3)]
    mean = average_tables(tables)
    assert [score.value for score in mean] == pytest.approx([0.3, 0.6])
    assert replace(mean[0], value=0.5) == SCORE


def test_what_one_seed_does_not_define_is_not_defined():
    mean = average_tables([[SCORE], [replace(SCORE, value=nan, empty="both")]])
    assert isnan(mean[0].value) and mean[0].empty == "both"


def test_tables_of_other_cases_are_refused():
    with pytest.raises(ValueError, match=r"Tables 1 and 2 differ in their rows: .*case_2"):
        average_tables([[SCORE], [SCORE, replace(SCORE, case="case_2")]])
    with pytest.raises(ValueError, match="twice"):
        average_tables([[SCORE], [SCORE, SCORE]])
