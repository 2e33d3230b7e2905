"""Pictures of a few pixels, with answers worked out by hand."""

import numpy as np
import pytest
from tiny_files import write_picture

from nnunet_mamba.study.datasets.pictures import (
    instruments,
    interior_and_boundary,
    microscopy,
    resized,
    three_channels,
)


def test_grey_is_three_times_the_same_and_colours_stay():
    assert three_channels(np.array([[7, 8]])).tolist() == [[[7, 7, 7], [8, 8, 8]]]
    assert three_channels(np.arange(3)[None, None]).tolist() == [[[0, 1, 2]]]


def test_contrast_is_stretched_from_the_first_to_the_99th_percentile_of_what_is_not_zero(tmp_path):
    """Of 100, 200, ... 10100 these are 200 and 10000, however many zeros there are."""
    ramp = np.arange(1, 102, dtype=np.uint16) * 100
    write_picture(tmp_path / "ramp.tif", np.concatenate([np.zeros(99, np.uint16), ramp]).reshape(2, 100))
    stretched = microscopy(tmp_path / "ramp.tif")[..., 0].ravel()[99:]
    assert stretched.tolist() == [int(np.clip((v - 200) / 9800, 0, 1) * 255) for v in ramp.tolist()]
    assert (stretched[:3].tolist(), stretched[50], stretched[-3:].tolist()) == (
        [0, 0, 2],
        127,
        [252, 255, 255],
    )


@pytest.mark.parametrize(("width", "n_interior"), [(8, 16), (7, 0)])
def test_an_interior_of_16_pixels_is_kept_and_a_smaller_one_dropped(tmp_path, width, n_interior):
    """Of a cell of 8 x 8 pixels the inner 4 x 4 are interior; of 8 x 7 they are 4 x 3."""
    cell = np.zeros((14, 14), np.uint16)
    cell[3:11, 3 : 3 + width] = 5
    write_picture(tmp_path / "cell.tif", cell)
    label = interior_and_boundary([tmp_path / "cell.tif"])
    assert (label == 1).sum() == n_interior
    assert (label == 2).sum() == 10 * (width + 2) - 4 - 4 * (width - 4)  # in and out of the edge


def test_pieces_of_an_interior_that_touch_at_corners_are_counted_apart(tmp_path):
    """Of two plates of 7 x 8 that overlap in 2 x 2 the interior is a chain of 12, 1, 1 and 12 pixels."""
    cell = np.zeros((16, 18), np.uint16)
    cell[2:9, 2:10] = cell[7:14, 8:16] = 1
    write_picture(tmp_path / "cell.tif", cell)
    assert not (interior_and_boundary([tmp_path / "cell.tif"]) == 1).any()


def test_where_tools_overlap_the_later_name_wins(tmp_path):
    masks = {"Right_Vessel_Sealer": [0, 0, 9], "Left_Bipolar_Forceps": [0, 9, 9]}
    files = [tmp_path / tool / "frame.png" for tool in masks]
    for file, mask in zip(files, masks.values(), strict=True):
        write_picture(file, np.array([mask], np.uint8))
    for given in (files, files[::-1]):
        assert instruments(given).tolist() == [[0, 1, 4]]


def test_resized_labels_are_those_of_the_nearest_pixel_and_pictures_are_rounded():
    """Between 0 and 2 there is no label 1. Of 0 and 3 a width of 4 makes 3/4, 3/4, 9/4, 9/4."""
    labels = np.array([[0, 2]], np.uint8)
    assert resized(labels, (1, 6), labels=True).tolist() == [[0, 0, 0, 2, 2, 2]]
    assert resized(np.array([[0, 3]], np.uint8), (1, 4), labels=False).tolist() == [[1, 1, 2, 2]]


def test_stripes_finer_than_the_pixels_of_a_smaller_picture_become_grey():
    """Labels do not: there every third pixel is taken, of which each second one is in a stripe."""
    stripes = np.tile(np.array([0, 200], np.uint8), (3, 15))
    assert abs(resized(stripes, (1, 10), labels=False)[:, 2:-2].astype(int) - 100).max() < 30
    assert resized(stripes, (1, 10), labels=True).tolist() == [[200, 0] * 5]
