import base64
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from page_reader import read

from nnunet_mamba.io.document import render_markdown
from nnunet_mamba.study.evaluation import read_table, write_table
from nnunet_mamba.study.report import build_document, collect_study_report, write_study_report
from nnunet_mamba.study.report import page as page_module
from nnunet_mamba.study.report.render import render_html
from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR


@pytest.fixture(scope="module")
def folder(single_report, tmp_path_factory):
    """The folder of the report on one method."""
    return write_study_report(single_report, tmp_path_factory.mktemp("page"))[0].parent


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_one_method_gets_a_page_markdown_and_a_picture(folder):
    assert sorted(f.name for f in folder.iterdir()) == ["report.html", "report.md", "report.png"]


def test_the_same_input_gives_the_same_bytes(simulated_report, simulated_document):
    again = build_document(simulated_report)
    for render in (render_html, render_markdown):
        assert render(again) == render(simulated_document)


def test_a_file_is_no_folder_to_write_into(single_report, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        write_study_report(single_report, tmp_path / "x")


def read_folder(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("failing", ["build_document", "render_html", "render_markdown", "render_summary"])
def test_what_cannot_be_made_leaves_the_earlier_report_as_it_was(folder, single_report, monkeypatch, failing):
    before = read_folder(folder)

    def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(page_module, failing, fail)
    with pytest.raises(RuntimeError):
        write_study_report(replace(single_report, dataset="Another"), folder)
    assert read_folder(folder) == before


def test_a_picture_of_an_earlier_report_goes(single_report, tmp_path):
    write_study_report(single_report, tmp_path)
    without = write_study_report(replace(single_report, predicted=None), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(without) == [tmp_path / f"report.{x}" for x in ("html", "md")]


def test_names_with_dollars_and_tags_are_text(single_request, tmp_path):
    """Names of cases, labels, the method and the dataset, on the page, in Markdown and in the picture."""
    nasty = r"$\frac$ <script> *x*"
    raw, (predictions,) = single_request.references.parent, single_request.predictions
    folders = [tmp_path / name for name in ("labelsTs", "imagesTs", "predictions")]
    for source, folder in zip((raw / "labelsTs", raw / "imagesTs", predictions), folders, strict=True):
        folder.mkdir()
        for file in source.glob("*.nii.gz"):
            shutil.copy(file, folder / file.name.replace("phantom", nasty))
    shutil.copy(raw / "dataset.json", tmp_path)
    method = {"trainer": nasty, "dataset": nasty}
    scores = [
        replace(s, case=s.case.replace("phantom", nasty), label_name=f"{s.label} {nasty}", **method)
        for s in read_table(single_request.tables[0])
    ]
    write_table(scores, tmp_path / "scores.csv")
    request = replace(
        single_request, tables=[tmp_path / "scores.csv"], results=None, predictions=[folders[2]],
        references=folders[0], note=nasty, facts=[(nasty, nasty)], stages=[],
    )  # fmt: skip
    files = write_study_report(collect_study_report(request), tmp_path / "out")
    assert [file.suffix for file in files] == [".html", ".md", ".png"]
    page, text = (file.read_text(encoding="utf-8") for file in files[:2])
    assert "<script" not in page and "".join(read(page).text).count(nasty) > 30
    assert "<script" not in text and "*x*" not in text and text.count(r"&lt;script> \*x\*") > 30


def test_the_seeds_of_the_trainings_are_told_where_their_means_stand(single_report):
    def tell(*seeds):
        return render_markdown(build_document(replace(single_report, seeds=seeds)))

    assert "| seeds of trainings | not stated" in tell("") and "rained with" not in tell("")
    assert tell("5").count("Trained with seed 5.") == 4
    told = "Trained with seeds 1, 2, 3; scores are means over them; pictures, curves and confusions are of"
    assert (
        tell("1", "2", "3").count(f"{told} seed 1.") == 4
    )  # at the cases, the training, the confusions and the provenance


def test_three_cases_in_three_planes_with_both_outlines(page, tmp_path):
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == 9
    for number, code in enumerate(images):
        file = tmp_path / f"{number}.png"
        file.write_bytes(base64.b64decode(code))
        assert has_colour(file, PREDICTION_COLOUR)
    assert has_colour(file, REFERENCE_COLOUR)  # the last case is the worst: its outlines differ


def has_colour(file, colour):
    """Return whether some pixels are near this colour."""
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return (np.abs(imread(file)[..., :3] - wanted).max(-1) < 0.1).sum() > 20


def test_the_page_tells_scores_times_commands_and_versions(page):
    text = "".join(read(page).text)
    for expected in (
        "organ",
        "gland",
        "vessel",
        "phantom_004",
        "worst",
        "1:01",
        "nnUNetv2_plan_and_preprocess -d 900",
        "nnunet-mamba quickstart",
        "Pseudo Dice",
    ):
        assert expected in text
    assert "abacus <b>bold</b>" in text  # as text, not as markup


def test_the_mean_on_top_is_the_mean_of_the_table(page, single_report):
    dice = {}
    for score in single_report.scores:
        if score.metric == "dice":
            dice.setdefault(score.label, []).append(score.value)
    expected = np.mean([np.mean(values) for values in dice.values()])
    assert f"<b>{expected:.4f}</b><span>mean foreground Dice</span>" in page


def test_exported_variables_survive_a_shell(page):
    assert "export nnUNet_raw=&#39;/some where/raw&#39;" in page


def test_pictures_are_of_the_seed_whose_folder_of_results_was_given(single_report):
    results = Path("nnUNet_results/seed_7/Dataset900_Phantom")
    report = replace(single_report, seeds=["3", "7"])
    assert report.note_on_seeds.endswith("are of seed 3.")
    report = replace(report, results=results)
    assert report.note_on_seeds.endswith("are of seed 7.")
