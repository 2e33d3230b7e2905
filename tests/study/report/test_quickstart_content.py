from dataclasses import replace

from nnunet_mamba.study.report.quickstart_content import choose_cases, mean_case_dice


def test_best_median_and_worst_are_shown_by_their_dice(quickstart_report):
    shuffled = replace(quickstart_report, cases=[quickstart_report.cases[k] for k in (2, 0, 3, 1)])
    assert [(word, case.name) for word, case in choose_cases(shuffled)] == [
        ("best", "phantom_001"),  # moved by nothing
        ("median", "phantom_002"),
        ("worst", "phantom_004"),  # moved by 3 voxels
    ]


def test_two_cases_are_shown_without_a_ranking(quickstart_report):
    two_cases = replace(quickstart_report, cases=quickstart_report.cases[:2])
    assert [word for word, _ in choose_cases(two_cases)] == ["case", "case"]


def test_case_dice_leaves_undefined_labels_out(quickstart_report):
    name, scores = quickstart_report.cases[0].name, quickstart_report.scores
    one_undefined = [replace(s, value=float("nan")) if s.label == "2" else s for s in scores]
    assert mean_case_dice(scores, name) == mean_case_dice(one_undefined, name) == 1
    assert mean_case_dice([replace(s, value=float("nan")) for s in scores], name) == 0
