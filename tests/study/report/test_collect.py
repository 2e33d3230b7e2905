from dataclasses import replace

import pytest
from tiny_study import tiny_scores

from nnunet_mamba.study.report import ReportRequest, collect_study_report


def test_mixed_protocols_are_refused_and_can_be_chosen(write_scores):
    mixed = tiny_scores()[:16] + tiny_scores("transunet")[16:]
    with pytest.raises(ValueError, match="scored by different protocols"):
        collect_study_report(ReportRequest([write_scores(mixed)], n_bootstrap=200))
    both = write_scores(tiny_scores() + tiny_scores("transunet"))
    report = collect_study_report(ReportRequest([both], protocol="transunet", n_bootstrap=200))
    assert report.leading.protocol == "transunet"
    with pytest.raises(ValueError, match=r"no rows of the protocol 'x'; they have honest, transunet"):
        collect_study_report(ReportRequest([both], protocol="x"))


def test_several_datasets_ask_for_one(write_scores):
    two = tiny_scores() + [replace(s, dataset="Dataset027_ACDC") for s in tiny_scores()]
    table = write_scores(two)
    with pytest.raises(ValueError, match=r"choose one by --dataset: Dataset027_ACDC, Dataset900_Tiny"):
        collect_study_report(ReportRequest([table], n_bootstrap=200))
    assert (
        collect_study_report(ReportRequest([table], dataset="acdc", n_bootstrap=200)).dataset
        == "Dataset027_ACDC"
    )


def test_results_of_another_dataset_are_refused(write_scores, tmp_path):
    other = tmp_path / "Dataset001_Other"
    other.mkdir()
    with pytest.raises(ValueError, match="is not the folder of Dataset900_Tiny"):
        collect_study_report(ReportRequest([write_scores(tiny_scores())], results=other))
