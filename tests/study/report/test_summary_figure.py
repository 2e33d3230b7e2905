import io
from dataclasses import replace

import numpy as np
from matplotlib.image import imread

from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR
from nnunet_mamba.study.report.summary_figure import render_summary


def has_colour(pixels, colour):
    """Return whether some pixels are near this colour."""
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return (np.abs(pixels[..., :3] - wanted).max(-1) < 0.1).sum() > 20


def test_the_picture_is_a_png_of_readable_size_with_both_outlines(single_report, keep_cases):
    pixels, one = (imread(io.BytesIO(render_summary(each))) for each in (single_report, keep_cases(1)))
    assert pixels.shape[1] == 1600
    assert has_colour(pixels, REFERENCE_COLOUR) and has_colour(pixels, PREDICTION_COLOUR)
    assert one.shape[0] < pixels.shape[0]


def test_there_is_no_picture_of_several_methods_or_without_images(simulated_report, single_report):
    for report in (simulated_report, replace(single_report, predicted=None)):
        assert render_summary(report) is None


def test_without_logs_the_cases_stand_beside_their_scores(single_report):
    assert render_summary(replace(single_report, training_runs=[]))
