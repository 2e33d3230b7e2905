"""Numbers worked out by hand: see `tiny_scores` for the table."""

import numpy as np
import pytest
from simulated_study import LABELS
from tiny_study import tiny_scores

from nnunet_mamba.io.document import ShadedCell
from nnunet_mamba.io.tables import BestCell
from nnunet_mamba.study.report import ReportRequest, collect_study_report
from nnunet_mamba.study.report.study_tables import (
    build_case_table,
    build_confusion_table,
    build_facts_table,
    build_label_table,
    build_summary_table,
)


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


def test_labels_have_their_own_means(tiny):
    table = build_label_table(tiny, tiny.leading)
    assert list(table.header) == ["label", "MMUNet", "MMUNet_NoSSM", "nnUNet"]
    assert list(cells(table, "large")) == ["large", "0.9000", "0.8500", "0.8000"]
    assert list(cells(table, "mean of labels")) == ["mean of labels", "0.8000", "0.7500", "0.7000"]


def test_of_more_methods_than_labels_each_has_a_row(simulated_report):
    table = build_label_table(simulated_report, simulated_report.leading)
    assert list(table.header) == ["method", *LABELS, "mean of labels"]
    assert [row[0] for row in table.rows] == list(simulated_report.methods)
    first = next(iter(simulated_report.methods.values()))
    dice = [s.value for s in simulated_report.select_scores(first, "dice") if s.label_name == LABELS[1]]
    assert table.rows[0][2] == f"{sum(dice) / len(dice):.4f}"


def test_confusion_shows_percentages_of_the_reference():
    table = build_confusion_table(np.array([[90, 10, 0], [1, 3, 0], [0, 0, 0]]), ["background", "a", "b"])
    assert list(table.rows[0]) == ["background", "90.0%", "10.0%", "0%"]
    assert list(table.rows[1]) == ["a", "25.0%", "75.0%", "0%"]
    assert list(table.rows[2]) == ["b", "–", "–", "–"]  # the references do not have it
    assert isinstance(table.rows[0][1], ShadedCell) and table.rows[0][1].share == pytest.approx(0.9)


def test_every_case_has_a_row_per_label_with_every_metric(single_report):
    table = build_case_table(single_report)
    assert list(table.header) == ["case", "label", "Dice", "HD95 (mm)", "voxels"]
    assert len(table.rows) == 4 * 3
    assert list(table.rows[0][:4]) == ["phantom_001", "organ", "1.0000", "0.00"]
    assert int(table.rows[0][4]) > 0


def test_what_is_told_of_the_training_stands_beside_what_the_logs_tell(simulated_report, single_report):
    assert list(cells(build_facts_table(simulated_report), "GPU")) == ["GPU"] + ["simulated GPU"] * 5
    assert list(cells(build_facts_table(single_report), "network parameters"))[1:] == ["1,234"]
