from dataclasses import replace

import numpy as np
from matplotlib.image import imread

from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR
from nnunet_mamba.study.report.summary_figure import write_summary_figure


def has_colour(file, colour):
    """Return whether some pixels are near this colour."""
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return (np.abs(imread(file)[..., :3] - wanted).max(-1) < 0.1).sum() > 20


def test_the_picture_is_a_png_of_readable_size_with_both_outlines(single_report, keep_cases, tmp_path):
    assert write_summary_figure(single_report, tmp_path / "report.png")
    pixels = imread(tmp_path / "report.png")
    assert pixels.shape[1] == 1600
    assert has_colour(tmp_path / "report.png", REFERENCE_COLOUR)
    assert has_colour(tmp_path / "report.png", PREDICTION_COLOUR)
    assert write_summary_figure(keep_cases(1), tmp_path / "one.png")
    assert imread(tmp_path / "one.png").shape[0] < pixels.shape[0]


def test_there_is_no_picture_of_several_methods_or_without_images(simulated_report, single_report, tmp_path):
    for report in (simulated_report, replace(single_report, files=None)):
        assert not write_summary_figure(report, tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_without_logs_the_cases_stand_beside_their_scores(single_report, tmp_path):
    assert write_summary_figure(replace(single_report, training_runs=[]), tmp_path / "report.png")
