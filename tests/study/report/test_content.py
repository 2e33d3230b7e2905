import shutil
from dataclasses import replace

import pytest
from tiny_study import tiny_scores

from nnunet_mamba.io.document import render_markdown
from nnunet_mamba.study.evaluation import read_method_table
from nnunet_mamba.study.report import ReportRequest, build_document, collect_study_report


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


def test_pictures_are_of_the_seed_of_the_folder_of_results_or_of_the_one_above_it(write_scores, tmp_path):
    scores = [replace(s, seed=seed) for s in tiny_scores() for seed in ("3", "7")]
    results = tmp_path / "seed_7" / "Dataset900_Tiny"
    results.mkdir(parents=True)
    for given in (results, results.parent):
        request = ReportRequest([write_scores(scores)], results=given, n_bootstrap=100)
        assert collect_study_report(request).note_on_seeds.endswith("are of seed 7.")


def test_each_folder_of_predictions_belongs_to_the_table_in_its_place(
    single_request, single_report, write_scores, tmp_path
):
    (table,), (folder,) = single_request.tables, single_request.predictions
    other = shutil.copytree(folder, tmp_path / "other")
    scores = [replace(s, trainer="nnUNetTrainer") for s in single_report.scores]
    request = replace(single_request, tables=[write_scores(scores), table], predictions=[other, folder])
    cases = collect_study_report(replace(request, n_bootstrap=100)).predicted.cases
    places = {
        method.trainer: {files.prediction.parent for files in own.values()} for method, own in cases.items()
    }
    assert places == {"nnUNetTrainer": {other}, single_report.single.trainer: {folder}}
    assert all(files.image.parent.name == "imagesTs" for own in cases.values() for files in own.values())
    for wrong in ({"predictions": [folder]}, {"references": None}):
        with pytest.raises(ValueError, match=r"--predictions"):
            collect_study_report(replace(request, **wrong))


def test_nothing_is_missing_where_logs_label_maps_and_images_are_found(single_report):
    assert single_report.predicted.has_images and single_report.left_out == []


def test_rows_without_an_origin_get_the_given_one_and_others_keep_theirs(single_request, write_scores):
    assert {s.fold for s in collect_study_report(single_request).scores} == {"test"}
    kept = ReportRequest([write_scores(tiny_scores())], origin=single_request.origin, n_bootstrap=200)
    assert collect_study_report(kept).dataset == "Dataset900_Tiny"


def test_a_method_alone_is_warned_of_nothing_that_concerns_tests(single_report):
    assert single_report.leading.warnings == () and single_report.leading.comparisons == ()


def test_images_that_are_nowhere_are_named(single_request, tmp_path):
    report = collect_study_report(replace(single_request, images=tmp_path))
    assert report.left_out == ["Pictures of cases: the images were not found; give --images."]


def test_a_table_of_several_methods_has_no_folder_of_predictions(single_request, write_scores):
    request = replace(single_request, tables=[write_scores(tiny_scores())], results=None)
    with pytest.raises(
        ValueError, match="expected one per method, in the order of their tables, and tables of"
    ):
        collect_study_report(request)


def seeded(scores, gains):
    """The scores by each seed, which moves all of its values by a gain."""
    return [
        replace(s, seed=seed, value=s.value + gain)
        for s in scores
        for seed, gain in zip("90", gains, strict=True)
    ]


def test_scores_are_means_over_the_seeds_of_the_tables(write_scores, tiny):
    halves = [
        write_scores([s for s in seeded(tiny_scores(), (-0.01, 0.03)) if s.seed == seed], f"{seed}.csv")
        for seed in "09"
    ]
    report = collect_study_report(ReportRequest(halves, n_bootstrap=200))
    assert report.seeds == ["0", "9"] and report.leading.n_seeds == 2
    assert len(report.scores) == len(tiny.scores) and tiny.seeds == [""]
    before = {(s.trainer, s.case, s.label): s.value for s in tiny.scores}
    after = {(s.trainer, s.case, s.label): s.value for s in report.scores}
    assert after == pytest.approx({key: value + 0.01 for key, value in before.items()})


def test_a_folder_of_predictions_is_of_a_method_whatever_its_seeds(single_request, write_scores):
    scores = read_method_table(single_request.tables[0], single_request.origin)
    tables = [write_scores([replace(s, seed=k) for s in scores], f"{k}.csv") for k in "01"]
    report = collect_study_report(replace(single_request, tables=tables))
    assert report.predicted is not None and [len(each) for each in report.predicted.cases.values()] == [4]


def test_a_margin_is_of_its_metric_and_told_where_there_is_none(write_scores):
    request = ReportRequest(
        [write_scores(tiny_scores())], margins={"dice": 0.07, "hd95": 1.0}, n_bootstrap=1000
    )
    report = collect_study_report(request)
    assert report.leading.margin == 0.07
    assert report.left_out[0] == "Margin of hd95: the tables do not have it."
    text = render_markdown(build_document(report))
    assert "better, by less than the margin" in text and "90 % CI |" in text and "equivalent: no" in text
    plain = render_markdown(build_document(collect_study_report(replace(request, margins={}))))
    assert "equivalent" not in plain and "90 % CI" not in plain
