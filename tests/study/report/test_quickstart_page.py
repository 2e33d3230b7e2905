import base64
import re

import numpy as np
import pytest
from matplotlib.image import imread
from page_reader import read

from nnunet_mamba.study.report import write_quickstart_figure, write_quickstart_page
from nnunet_mamba.study.report.quickstart_page import format_mean_sd, format_minutes
from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR


@pytest.fixture(scope="module")
def page(quickstart_report, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_quickstart_page(quickstart_report, file)
    assert [f.name for f in file.parent.iterdir()] == ["report.html"]
    return file.read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(page):
    assert all(value.startswith(("data:", "#")) for value in read(page).loaded)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


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
    text = " ".join(read(page).text)
    for expected in (
        "organ",
        "gland",
        "vessel",
        "phantom_004",
        "worst",
        "1:01",
        "nnUNetv2_plan_and_preprocess -d 900",
    ):
        assert expected in text
    assert "2.9 <b>bold</b>" in text  # as text, not as markup


def test_the_mean_on_top_is_the_mean_of_the_table(page, quickstart_report):
    dice = {}
    for score in quickstart_report.scores:
        if score.metric == "dice":
            dice.setdefault(score.label, []).append(score.value)
    expected = np.mean([np.mean(values) for values in dice.values()])
    assert f"<b>{expected:.3f}</b><span>mean foreground Dice</span>" in page


def test_exported_variables_survive_a_shell(page):
    assert "export nnUNet_raw=&#x27;/some where/raw&#x27;" in page


def test_the_picture_is_a_png_of_readable_size_with_both_outlines(quickstart_report, one_case, tmp_path):
    write_quickstart_figure(quickstart_report, tmp_path / "report.png")
    pixels = imread(tmp_path / "report.png")
    assert pixels.shape[1] == 1600
    assert has_colour(tmp_path / "report.png", REFERENCE_COLOUR)
    assert has_colour(tmp_path / "report.png", PREDICTION_COLOUR)
    write_quickstart_figure(one_case, tmp_path / "one.png")
    assert imread(tmp_path / "one.png").shape[0] < pixels.shape[0]


def test_a_single_case_has_no_deviation():
    assert format_mean_sd(0.5, float("nan"), 3) == "0.500"
    assert format_mean_sd(0.5, 0.25, 3) == "0.500 ± 0.250"
    assert format_mean_sd(float("nan"), float("nan"), 3) == "–"


def test_minutes():
    assert [format_minutes(s) for s in (0, 61.4, 600)] == ["0:00", "1:01", "10:00"]
