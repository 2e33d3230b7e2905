"""Masks small enough to draw, answers worked out by hand."""

import math

import numpy as np
import pytest

from nnunet_mamba.evaluation.metrics import dice, hd95_mm, union_box

SPACING_MM = (3.0, 1.0, 0.5)  # z, y, x


def mask(*boxes: tuple[slice, ...], grid: tuple[int, ...] = (8, 16, 16)) -> np.ndarray:
    array = np.zeros(grid, bool)
    for box in boxes:
        array[box] = True
    return array


def distance(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...] = SPACING_MM
) -> float:
    return hd95_mm(prediction, reference, spacing_mm=spacing_mm, diagonal_mm=99.0)


def test_boxes_shifted_by_half_their_length_have_dice_one_half():
    a = mask((slice(1, 5), slice(2, 6), slice(4, 8)))
    b = mask((slice(1, 5), slice(2, 6), slice(6, 10)))
    assert dice(a, b) == 0.5


def test_dice_of_a_box_inside_one_twice_as_large_is_two_thirds():
    assert dice(mask((slice(2, 4),)), mask((slice(2, 6),))) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("axis", "expected_mm"), [(0, 6.0), (1, 2.0), (2, 1.0)], ids=["2 slices", "2 rows", "2 columns"]
)
def test_two_voxels_two_steps_apart_are_two_spacings_apart(axis, expected_mm):
    there = [3, 3, 3]
    there[axis] += 2
    a, b = mask((3, 3, 3)), mask(tuple(there))
    assert distance(a, b) == pytest.approx(expected_mm)


def test_distance_along_the_diagonal_is_pythagorean():
    assert distance(mask((1, 1, 2)), mask((2, 5, 2))) == pytest.approx(5.0)  # 3 mm and 4 mm


def test_a_box_moved_by_one_slice_has_the_slice_thickness_as_its_distance():
    a, b = mask((slice(2, 5), slice(4, 9), slice(4, 9))), mask((slice(3, 6), slice(4, 9), slice(4, 9)))
    assert distance(a, b) == pytest.approx(3.0)  # the far face, 25 of 66 surface voxels, is 3 mm away


def test_a_small_far_false_positive_is_not_averaged_away():
    """The 2^3 block lies 20 mm from the disc: all of it, more than 5 % of the prediction's surface."""
    reference = mask((slice(3, 5), slice(0, 5), slice(0, 5)), grid=(8, 40, 8))
    prediction = reference | mask((slice(3, 5), slice(24, 26), slice(0, 2)), grid=(8, 40, 8))
    # rows 24 and 25 are 20 and 21 mm from row 4; they are 8 of 42 + 8 surface voxels, the upper 8 %
    assert distance(prediction, reference, (1.0, 1.0, 1.0)) == pytest.approx(21.0)
    assert distance(reference, prediction, (1.0, 1.0, 1.0)) == pytest.approx(21.0)


def test_the_larger_of_the_directed_distances_counts():
    """Every reference voxel is near the prediction, but half of the prediction is 20 mm away."""
    reference = mask((2, 2, 2), grid=(4, 4, 30))
    prediction = reference | mask((2, 2, 22), grid=(4, 4, 30))
    # directed distances {0, 20} mm; their 95th percentile, interpolated between the two, is 19 mm
    assert distance(prediction, reference, (1.0, 1.0, 1.0)) == pytest.approx(19.0)
    far = mask((2, 2, slice(22, 23)), grid=(4, 4, 30))
    assert distance(far, reference, (1.0, 1.0, 1.0)) == pytest.approx(20.0)


def test_both_empty_is_undefined_and_one_empty_is_the_worst():
    empty, full = mask(), mask((slice(2, 5),))
    assert math.isnan(dice(empty, empty))
    assert math.isnan(distance(empty, empty))
    assert dice(empty, full) == dice(full, empty) == 0
    assert distance(empty, full) == distance(full, empty) == 99.0


def test_the_same_answer_in_two_dimensions():
    a, b = mask((slice(2, 4), slice(2, 4)), grid=(9, 9)), mask((slice(4, 6), slice(2, 4)), grid=(9, 9))
    assert distance(a, b, (1.5, 1.0)) == pytest.approx(3.0)


def test_surface_at_the_image_border_counts():
    everything, half = mask((slice(None),)), mask((slice(0, 4),))
    assert distance(everything, half, (1.0, 1.0, 1.0)) == pytest.approx(4.0)


def test_union_box_holds_both_masks_and_a_margin():
    assert union_box(mask((3, 3, 3)), mask((5, 0, 15))) == (slice(2, 7), slice(0, 5), slice(2, 17))
