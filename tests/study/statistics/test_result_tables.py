from dataclasses import replace

import pytest

from nnunet_mamba.study.statistics import compare
from nnunet_mamba.study.statistics.result_tables import (
    build_comparison_tables,
    build_ranking_tables,
    build_score_table,
    state_verdicts,
)

NAN = float("nan")


@pytest.fixture
def scores(make_scores):
    """Two cases of two labels, of which one case lacks the second."""
    values = {"dice": {"a": [0.5, 0.9], "b": [0.7, NAN]}, "hd95": {"a": [1.0, 2.0], "b": [3.0, NAN]}}
    return [s for metric, cases in values.items() for s in make_scores("nnUNetTrainer", cases, metric=metric)]


def test_scores_have_a_row_per_label_and_a_column_per_metric(scores):
    """SD of 0.5 and 0.7: 0.2 / sqrt(2); mean of labels: of 0.6 and 0.9."""
    table = build_score_table(scores)
    assert list(table.header) == ["label", "Dice", "HD95 (mm)", "cases", "not counted", "value"]
    assert [list(row) for row in table.rows] == [
        ["organ1", "0.6000 ± 0.1414", "2.00 ± 1.41", "2", "0", "1"],
        ["organ2", "0.9000", "2.00", "1", "1", "2"],
        ["mean of labels", "0.7500", "2.00", "", "", ""],
    ]


def test_a_metric_of_fewer_cases_says_so(scores):
    fewer = [s for s in scores if (s.metric, s.case, s.label) != ("hd95", "b", "1")]
    assert build_score_table(fewer).rows[0][2] == "1.00 (n=1)"
    assert build_score_table(fewer, ["hd95", "dice"]).rows[0][1:3] == ["1.00", "0.6000 ± 0.1414 (n=2)"]


@pytest.mark.parametrize("left_out", [("dice", "1"), ("dice", "2"), ("hd95", "1"), ("hd95", "2")])
def test_a_label_without_a_metric_has_a_dash_there(scores, left_out):
    kept = [s for s in scores if (s.metric, s.label) != left_out]
    rows = {row[-1]: row for row in build_score_table(kept, ["dice", "hd95"]).rows}
    metric, label = left_out
    place = ("dice", "hd95").index(metric) + 1
    assert {number for number, row in rows.items() if row[place] == "–"} == {label}
    assert rows.keys() == {"1", "2", ""}
    assert rows[label][3] == ("2" if label == "1" else "1")  # cases, counted by the other metric


def test_of_metrics_that_are_not_asked_for_nothing_is_shown(scores):
    others = [replace(s, label="3", label_name="other") for s in scores if s.metric == "hd95"]
    assert build_score_table([*scores, *others], ["dice"]).rows == build_score_table(scores, ["dice"]).rows


def test_the_unit_of_a_metric_is_that_of_its_own_protocol(scores):
    voxels = [replace(s, protocol="transunet") if s.metric == "hd95" else s for s in scores]
    assert build_score_table(voxels).header[1:3] == ("Dice", "HD95 (voxels)")


@pytest.fixture
def result(make_table):
    return compare(make_table(0.1), n_bootstrap=100)[0]


def test_a_comparison_tells_p_and_interval(result):
    """All 8 differences are 0.1: p = 2 / 2**8, one test in the family."""
    (table,) = build_comparison_tables(result, of_labels=False)
    assert table.title == "Dice against the baseline, case means (Holm over 1 test)"
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row == {
        "method": "A", "other": "nnUNet", "verdict": "better", "difference": "+0.1000",
        "95 % CI": "+0.1000 to +0.1000", "p": "0.0078", "p (Holm)": "0.0078", "false claim": "<0.0001",
        "wins": "100%", "r": "+1.00", "folds": "1/1", "pairs": "8",
    }  # fmt: skip


def test_labels_have_tests_of_their_own(result):
    (table,) = build_comparison_tables(result, of_labels=True)
    assert [row[:4] for row in table.rows] == [
        ("A", "nnUNet", label, "better") for label in ("organ1", "organ2")
    ]
    assert "(Holm over 2 tests)" in table.title


def test_rankings_have_the_best_first_and_shares_that_sum_to_one(result):
    *rankings, shares = build_ranking_tables(result, with_shares=True)
    assert [[row[1] for row in table.rows] for table in rankings] == [["A", "nnUNet"]] * 2
    assert [list(row) for row in rankings[1].rows] == [
        ["1", "A", "1.00", "1 to 1"],
        ["2", "nnUNet", "2.00", "2 to 2"],
    ]
    assert [list(row[2:]) for row in shares.rows] == [["100%", "0%"], ["0%", "100%"]] * 2
    assert len(build_ranking_tables(result, with_shares=False)) == 2


def test_a_verdict_is_a_sentence_with_its_numbers(result):
    assert state_verdicts(result) == [
        "A is better than nnUNet: Dice +0.1000 (95 % CI +0.1000 to +0.1000); of 2 labels 2 better, 0 worse."
    ]
