import shutil

from simulated_study import LABELS
from tiny_study import tiny_scores

from nnunet_mamba.io.document import render_markdown
from nnunet_mamba.study.report import ReportRequest, build_document, collect_study_report
from nnunet_mamba.study.report.render import render_html


def titles(document):
    return [section.title for section in document.sections][1:]


def test_all_sections_are_there_in_order(simulated_document):
    assert titles(simulated_document) == [
        "Results", "Differences", "Labels", "Beside the papers", "Worst cases", "Training",
        "Confusion of labels", "Made from",
    ]  # fmt: skip


def test_without_results_their_sections_are_left_out_and_it_is_said(tiny):
    document = build_document(tiny)
    assert titles(document) == [
        "Results",
        "Differences",
        "Labels",
        "Made from",
    ]  # nor do papers know the dataset
    text = render_markdown(document)
    assert "Training: give --results." in text
    assert "Pictures of cases, confusion of labels: give --results, or --predictions." in text


def test_a_single_label_has_no_section_of_labels(write_scores):
    one = [s for s in tiny_scores() if s.label == "1"]
    report = collect_study_report(ReportRequest([write_scores(one)], n_bootstrap=200))
    assert titles(build_document(report)) == ["Results", "Differences", "Made from"]


def test_results_without_label_maps_still_show_the_training(simulated, tmp_path):
    table, results = simulated
    alone = tmp_path / results.name
    shutil.copytree(results, alone, ignore=shutil.ignore_patterns("*.nii.gz"))
    report = collect_study_report(ReportRequest([table], results=alone, n_bootstrap=200))
    assert report.predicted is None and len(report.training_runs) == 25
    assert any(line.startswith("Pictures of cases, confusion of labels:") for line in report.left_out)


def test_papers_numbers_come_with_what_forbids_comparing(simulated_document):
    text = render_markdown(simulated_document)
    assert "None of these papers' numbers was made as the numbers here were" in text
    assert "Not comparable: 200 cases, here 20." in text  # nnU-Net Revisited's cross-validation
    assert "0.9179 [1]" in text  # U-Mamba Bot
    assert "0.9179 | [1]" in " ".join(text.replace("|", " | ").split())


def test_worst_cases_and_files_are_told(simulated_document, simulated_report):
    text = render_markdown(simulated_document)
    method = simulated_report.methods["VMUNet"]
    pictured = set(simulated_report.predicted.cases[method])
    means = {}
    for s in simulated_report.select_scores(method, "dice"):
        if s.case in pictured:
            means[s.case] = means.get(s.case, 0) + s.value / len(LABELS)
    worst = min(means, key=means.get)
    assert f"VMUNet: {worst}, Dice {means[worst]:.4f} (" in text
    assert "secret" not in render_html(simulated_document)  # the machine's name in debug.json
