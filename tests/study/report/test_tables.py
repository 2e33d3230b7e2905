"""Numbers worked out by hand: see `tiny_scores` for the table."""

import numpy as np
import pytest
from tiny_study import tiny_scores

from nnunet_mamba.study.report import ReportRequest, collect_study_report
from nnunet_mamba.study.report.document import BestCell, ShadedCell
from nnunet_mamba.study.report.tables import (
    build_comparison_table,
    build_confusion_table,
    build_label_table,
    build_summary_table,
)
from nnunet_mamba.study.statistics.results import TWIN


def cells(table, first):
    return next(row for row in table.rows if row[0] == first)


def test_summary_has_means_and_sd_over_folds(tiny):
    """nnUNet: labels 0.8 and 0.6, folds 0.68 and 0.72, whose SD is 0.04 / sqrt(2)."""
    table = build_summary_table(tiny)
    assert list(table.header) == ["method", "Dice", "against its twin", "against nnUNet"]
    assert list(cells(table, "nnUNet")) == ["nnUNet", "0.7000 ± 0.0283", "–", "baseline"]
    assert list(cells(table, "MMUNet")) == [
        "MMUNet",
        "0.8000 ± 0.0283",
        "+0.0500, better",
        "+0.1000, better",
    ]
    assert [row[0] for row in table.rows] == ["MMUNet", "MMUNet_NoSSM", "nnUNet"]


def test_only_a_proven_best_is_bold(tiny, write_scores):
    assert isinstance(cells(build_summary_table(tiny), "MMUNet")[1], BestCell)
    few = [s for s in tiny_scores() if s.case in "abcde"]  # 5 pairs cannot show anything
    report = collect_study_report(ReportRequest([write_scores(few)], n_bootstrap=200))
    assert not any(isinstance(cell, BestCell) for row in build_summary_table(report).rows for cell in row)


def test_a_comparison_tells_p_and_interval(tiny):
    """All 8 differences are 0.05: p = 2 / 2**8, one test in the family."""
    (row,) = build_comparison_table(tiny.leading, TWIN).rows
    assert list(row) == [
        "MMUNet − MMUNet_NoSSM",
        "+0.0500",
        "+0.0500 to +0.0500",
        "0.0078",
        "better",
        "100%",
        "0.0283, 0.0283",
        "8",
    ]


def test_labels_have_their_own_means(tiny):
    table = build_label_table(tiny, tiny.leading)
    assert list(table.header) == ["label", "MMUNet", "MMUNet_NoSSM", "nnUNet"]
    assert list(cells(table, "large")) == ["large", "0.9000", "0.8500", "0.8000"]
    assert list(cells(table, "mean of labels")) == ["mean of labels", "0.8000", "0.7500", "0.7000"]


def test_confusion_shows_percentages_of_the_reference():
    table = build_confusion_table(np.array([[90, 10, 0], [1, 3, 0], [0, 0, 0]]), ["background", "a", "b"])
    assert list(table.rows[0]) == ["background", "90.0", "10.0", "0"]
    assert list(table.rows[1]) == ["a", "25.0", "75.0", "0"]
    assert list(table.rows[2]) == ["b", "–", "–", "–"]  # the references do not have it
    assert isinstance(table.rows[0][1], ShadedCell) and table.rows[0][1].share == pytest.approx(0.9)
