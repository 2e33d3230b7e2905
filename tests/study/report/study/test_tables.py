"""Numbers worked out by hand: see `tiny_scores` for the table."""

from dataclasses import replace

import numpy as np
import pytest
from report.study.conftest import tiny_scores
from simulated_study import heart

from nnunet_mamba.study.report.document import Best, Shaded
from nnunet_mamba.study.report.study import Request, gather
from nnunet_mamba.study.report.study.content import folds_told, proven_best
from nnunet_mamba.study.report.study.tables import (
    comparison_table,
    confusion_table,
    label_table,
    summary_table,
)
from nnunet_mamba.study.statistics.results import CASE_MEAN, TWIN


def cells(table, first):
    return next(row for row in table.rows if row[0] == first)


def test_summary_has_means_and_sd_over_folds(tiny):
    """nnUNet: labels 0.8 and 0.6, folds 0.68 and 0.72, whose SD is 0.04 / sqrt(2)."""
    table = summary_table(tiny)
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
    assert isinstance(cells(summary_table(tiny), "MMUNet")[1], Best)
    few = [s for s in tiny_scores() if s.case in "abcde"]  # 5 pairs cannot show anything
    report = gather(Request([write_scores(few)], n_bootstrap=200))
    assert not any(isinstance(cell, Best) for row in summary_table(report).rows for cell in row)


def test_the_best_is_not_bold_if_one_of_its_tests_is_not_won(tiny):
    study = tiny.leading
    means = {m.method: m.mean for m in study.methods}
    lost = tuple(replace(c, verdict="not better") if c.against == TWIN else c for c in study.comparisons)
    assert proven_best(study, means, CASE_MEAN) == "MMUNet"
    assert proven_best(replace(study, comparisons=lost), means, CASE_MEAN) is None


def test_a_comparison_tells_p_and_interval(tiny):
    """All 8 differences are 0.05: p = 2 / 2**8, one test in the family."""
    (row,) = comparison_table(tiny.leading, TWIN).rows
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
    table = label_table(tiny, tiny.leading)
    assert list(table.header) == ["label", "MMUNet", "MMUNet_NoSSM", "nnUNet"]
    assert list(cells(table, "large")) == ["large", "0.9000", "0.8500", "0.8000"]
    assert list(cells(table, "mean of labels")) == ["mean of labels", "0.8000", "0.7500", "0.7000"]


def test_confusion_shows_percentages_of_the_reference():
    table = confusion_table(np.array([[90, 10, 0], [1, 3, 0], [0, 0, 0]]), ["background", "a", "b"])
    assert list(table.rows[0]) == ["background", "90.0", "10.0", "0"]
    assert list(table.rows[1]) == ["a", "25.0", "75.0", "0"]
    assert list(table.rows[2]) == ["b", "–", "–", "–"]  # the references do not have it
    assert isinstance(table.rows[0][1], Shaded) and table.rows[0][1].share == pytest.approx(0.9)


def test_confusion_of_files_counts_every_voxel(simulated_report):
    from nnunet_mamba.study.report.study.files import confusion

    files = simulated_report.files
    method = simulated_report.methods["nnUNet"]
    voxels, n_cases = confusion(files.maps[method].values(), list(files.names))
    assert n_cases == 5
    assert voxels.sum() == 5 * heart(0).size
    assert voxels.sum(1).tolist() == sum(np.bincount(heart(i).ravel()) for i in range(5)).tolist()


def test_mixed_protocols_are_refused_and_can_be_chosen(write_scores):
    mixed = tiny_scores()[:16] + tiny_scores("transunet")[16:]
    with pytest.raises(ValueError, match="scored by different protocols"):
        gather(Request([write_scores(mixed)], n_bootstrap=200))
    both = write_scores(tiny_scores() + tiny_scores("transunet"))
    report = gather(Request([both], protocol="transunet", n_bootstrap=200))
    assert report.leading.protocol == "transunet"
    with pytest.raises(ValueError, match=r"no rows of the protocol 'x'; they have honest, transunet"):
        gather(Request([both], protocol="x"))


def test_several_datasets_ask_for_one(write_scores):
    two = tiny_scores() + [replace(s, dataset="Dataset027_ACDC") for s in tiny_scores()]
    table = write_scores(two)
    with pytest.raises(ValueError, match=r"choose one by --dataset: Dataset027_ACDC, Dataset900_Tiny"):
        gather(Request([table], n_bootstrap=200))
    assert gather(Request([table], dataset="acdc", n_bootstrap=200)).dataset == "Dataset027_ACDC"


def test_results_of_another_dataset_are_refused(write_scores, tmp_path):
    other = tmp_path / "Dataset001_Other"
    other.mkdir()
    with pytest.raises(ValueError, match="is not of Dataset900_Tiny"):
        gather(Request([write_scores(tiny_scores())], results=other))


@pytest.mark.parametrize(
    ("folds", "told"),
    [("43210", "0 to 4"), ("01", "0, 1"), ("024", "0, 2, 4"), (["all", "0"], "0, all"), ([""], "")],
)
def test_folds_in_a_row_are_told_shortly(folds, told):
    assert folds_told(folds) == told
