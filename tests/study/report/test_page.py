import base64
import re

import numpy as np
import pytest
from matplotlib.image import imread
from page_reader import read

from nnunet_mamba.study.report import build_document, write_study_report
from nnunet_mamba.study.report.render import render_html, render_markdown
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
