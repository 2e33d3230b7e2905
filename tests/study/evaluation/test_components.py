import math

import numpy as np
import pytest

from nnunet_mamba.study.evaluation.components import instance_f1, match_instances, remove_border_instances
from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.masks import LabelMapPair
from nnunet_mamba.study.evaluation.protocols import PROTOCOLS


def cells(*boxes, grid=(30, 30)):
    """Numbered rectangles (top, bottom, left, right)."""
    array = np.zeros(grid, int)
    for number, (top, bottom, left, right) in enumerate(boxes, start=1):
        array[top:bottom, left:right] = number
    return array


def test_two_of_three_cells_found_and_one_invented():
    true = cells((4, 8, 4, 8), (4, 8, 12, 16), (4, 8, 20, 24))
    predicted = cells((4, 8, 4, 8), (5, 8, 12, 16), (20, 24, 20, 24))
    assert instance_f1(predicted, true) == pytest.approx(2 * 2 / (3 + 3))


def test_a_match_needs_half_of_the_union():
    true = cells((4, 8, 4, 8))  # 16 pixels
    assert instance_f1(cells((4, 8, 4, 6)), true) == 1  # 8 of 16
    assert instance_f1(cells((4, 8, 4, 5)), true) == 0
    assert instance_f1(cells((4, 7, 4, 7)), cells((4, 9, 4, 8))) == 0  # 9 of 20, nearly half


def test_each_cell_is_matched_once():
    """Both halves have an IoU of exactly 1/2 with the cell."""
    true, halves = cells((4, 8, 4, 12)), cells((4, 8, 4, 8), (4, 8, 8, 12))
    assert match_instances(halves, true) == (1, 2, 1)


def test_a_match_comes_before_larger_overlaps_of_no_match():
    """IoU of the first true cell: 1/2 and 0.4; of the second: 0.25. The swap has more, and matches none."""
    true = cells((4, 8, 4, 14), (4, 8, 14, 16))
    predicted = cells((4, 8, 8, 16), (4, 8, 4, 8))
    assert match_instances(predicted, true) == (1, 2, 2)


def test_cells_that_touch_the_two_outermost_pixels_do_not_count():
    inside, rim = (2, 6, 2, 6), (1, 6, 10, 14)
    assert np.array_equal(remove_border_instances(cells(inside, rim)), cells(inside))
    assert instance_f1(cells(inside), cells(inside, rim)) == 1
    inside, rim = (24, 28, 24, 28), (24, 29, 14, 18)  # the last two of 30 are 28 and 29
    assert np.array_equal(remove_border_instances(cells(inside, rim)), cells(inside))


def test_references_that_number_their_cells_tell_those_that_touch():
    """Two cells side by side, numbered 3 and 4, of which one is found: 2 / (1 + 2)."""
    reference = np.zeros((30, 30), int)
    reference[4:8, 4:8], reference[4:8, 8:12] = 3, 4
    pair = LabelMapPair((reference == 3).astype(int), reference, (1.0, 1.0), instances=True).pair(
        Label("", (1,))
    )
    assert PROTOCOLS["honest"].value("f1", pair) == pytest.approx(2 / 3)


def test_squares_that_touch_at_a_corner_are_one_cell():
    """One of the two is half of the cell, and a match; of two cells it would be one."""
    both = cells((4, 8, 4, 8), (8, 12, 8, 12)) > 0
    pair = LabelMapPair(cells((4, 8, 4, 8)), both.astype(int), (1.0, 1.0)).pair(Label("", (1,)))
    assert PROTOCOLS["honest"].value("f1", pair) == 1


def test_nothing_found_is_0_and_undefined_where_nothing_is_away_from_the_border():
    assert instance_f1(cells(), cells((4, 8, 4, 8))) == 0
    assert math.isnan(instance_f1(cells(), cells()))
    assert math.isnan(instance_f1(cells((0, 4, 4, 8)), cells((0, 4, 4, 8))))
    pair = LabelMapPair(*np.zeros((2, 9, 9), np.uint8), (1.0, 1.0)).pair(Label("", (1,)))
    assert PROTOCOLS["umamba"].value("f1", pair) == 0


def test_by_our_own_rules_the_border_counts_as_all_else():
    """An organ in the outermost slices, found exactly, is found; U-Mamba's rule would not see it."""
    mask = np.zeros((8, 9, 9), np.uint8)
    mask[5:8, 2:6, 2:6] = 1
    pair = LabelMapPair(mask, mask, (1.0, 1.0, 1.0)).pair(Label("", (1,)))
    assert PROTOCOLS["honest"].value("f1", pair) == 1
    assert PROTOCOLS["umamba"].value("f1", pair) == 0


def test_large_images_are_scored_in_tiles_that_have_borders_too():
    """Tiles of 20 on a grid of 30: the cell across the seam counts in neither of them."""
    true = cells((4, 8, 4, 8), (4, 8, 16, 24))
    predicted = cells((4, 8, 4, 8))
    assert instance_f1(predicted, true) == pytest.approx(2 / 3)
    assert instance_f1(predicted, true, large=900, tile=20) == 1
    last = cells((24, 30, 24, 30))  # beyond the image its tile goes on, so that its end is no border
    assert math.isnan(instance_f1(last, last))
    assert instance_f1(last, last, large=900, tile=20) == 1
