from dataclasses import replace

from nnunet_mamba.study.report import slices, write_study_report


def test_each_case_is_read_once_for_the_page_and_the_picture(single_report, monkeypatch, tmp_path):
    read, read_image = [], slices.read_image
    monkeypatch.setattr(slices, "read_image", lambda file: read.append(file) or read_image(file))
    write_study_report(replace(single_report), tmp_path)  # a copy, which has read nothing yet
    assert len(read) == len(set(read)) == 3


def test_of_one_method_the_best_the_median_and_the_worst_are_shown(single_report):
    assert [case.heading for case in single_report.shown_cases] == [
        "best: phantom_001",  # moved by nothing
        "median: phantom_002",
        "worst: phantom_004",  # moved by 3 voxels
    ]


def test_two_cases_are_shown_without_a_ranking(keep_cases):
    assert [case.heading for case in keep_cases(2).shown_cases] == [
        "case: phantom_001",
        "case: phantom_002",
    ]


def test_the_mean_of_a_case_leaves_undefined_labels_out(keep_cases):
    report = keep_cases(1)
    undefined = [replace(s, value=float("nan")) if s.label == "2" else s for s in report.scores]
    (case,), (other,) = report.shown_cases, replace(report, scores=undefined).shown_cases
    assert case.mean == other.mean == "Dice 1.0000"
    assert "gland" in case.labels and "gland" not in other.labels
    nothing = [replace(s, value=float("nan")) for s in undefined]
    assert replace(report, scores=nothing).shown_cases == []
