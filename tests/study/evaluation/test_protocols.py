"""Each paper's numbers on masks of a few voxels, worked out from its published code by hand."""

import math

import numpy as np
import pytest
from surface_reference import blobs, reference_metrics

from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.masks import LabelMapPair
from nnunet_mamba.study.evaluation.protocols import (
    FLARE,
    PROTOCOLS,
    check_metrics,
    flare_organ,
    get_protocol,
)

ORGAN = Label("", (1,))
ANISOTROPIC_MM = (5.0, 1.0, 1.0)


def line(*places: int, length: int = 40) -> np.ndarray:
    """Voxels on a line in a volume; the line runs along the last axis."""
    array = np.zeros((1, 1, length), np.uint8)
    array[0, 0, list(places)] = 1
    return array


def box(*slices: slice, value: int = 1, grid=(10, 12, 12)) -> np.ndarray:
    array = np.zeros(grid, np.uint8)
    array[slices] = value
    return array


def scores(protocol, prediction, reference, label=ORGAN, spacing_mm=ANISOTROPIC_MM):
    """Every metric that the protocol shows."""
    own = PROTOCOLS[protocol]
    maps = LabelMapPair(prediction, reference, spacing_mm[-prediction.ndim :])
    pair = own.prepare(label, maps.pair(label, own.tolerance_mm(label)))
    return {metric: own.value(metric, pair) for metric in own.shown}


EMPTY, FULL = line(), line(3, 4)


@pytest.mark.parametrize(
    ("protocol", "both", "missed", "invented"),
    [
        ("transunet", (0, 0), (0, 0), (1, 0)),
        ("nnformer", (1, 0), (0, 0), (0, 0)),
        ("taming-mambas", (1, 0), (0, 0), (0, 0)),
        ("brats-lesionwise", (1, 0), (1, 0), (0, 374)),  # the missed lesion is of 10 mm^3 and ignored
    ],
)
def test_dice_and_hd95_of_empty_masks(protocol, both, missed, invented):
    cases = ((EMPTY, EMPTY, both), (EMPTY, FULL, missed), (FULL, EMPTY, invented))
    for prediction, reference, expected in cases:
        assert tuple(scores(protocol, prediction, reference).values()) == expected


def test_mamba_unet_has_no_distance_where_a_mask_is_empty():
    for prediction, reference in ((EMPTY, EMPTY), (EMPTY, FULL), (FULL, EMPTY)):
        dice, hd95, asd = scores("mamba-unet-acdc", prediction, reference).values()
        assert dice == 0 and math.isnan(hd95) and math.isnan(asd)


@pytest.mark.parametrize("protocol", ["transunet", "nnformer", "taming-mambas", "mamba-unet-acdc"])
def test_hd95_is_the_percentile_of_pooled_voxel_distances(protocol):
    """Slices of 5 mm. Reference at slice 0, prediction at 0 and 3: distances {0, 3} and {0} voxels."""
    prediction, reference = np.zeros((2, 4, 1, 1), np.uint8)
    prediction[[0, 3]] = reference[0] = 1
    found = scores(protocol, prediction, reference)
    assert found["dice"] == pytest.approx(2 / 3)
    assert found["hd95"] == pytest.approx(2.7)  # of 0, 0, 3: rank 1.9
    assert scores("honest", prediction, reference)["hd95"] == pytest.approx(14.25)  # of 0, 15 mm: rank 0.95
    assert protocol != "mamba-unet-acdc" or found["asd"] == 1.5


@pytest.mark.parametrize("seed", range(3))
def test_pooled_hd95_of_blobs_equals_the_dense_transform(seed):
    p, r = blobs(np.random.default_rng(seed), (18, 20, 22))
    expected = reference_metrics(p, r, (1.0, 1.0, 1.0))["medpy_hd95"]
    found = scores("transunet", p.astype(np.uint8), r.astype(np.uint8))
    assert found["hd95"] == pytest.approx(expected)


# U-Mamba on FLARE 2022

LIVER, AORTA = Label("Liver", (1,)), Label("aorta", (5,))


def test_organs_are_known_by_name_and_else_by_number():
    assert [flare_organ(Label(name, (99,))) for name in ("Right Kidney", "LAG", "postcava")] == [2, 8, 6]
    assert flare_organ(Label("", (12,))) == 12
    assert flare_organ(Label("bladder", (12,))) is None
    assert [PROTOCOLS["umamba"].tolerance_mm(Label("", (k,))) for k in FLARE] == [
        5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3,
    ]  # fmt: skip


def test_tolerance_of_the_liver_is_5_mm_and_of_the_aorta_2():
    """A plate of 1 slice moved by one slice of 5 mm: all of it within 5 mm, only the rims' sides within 2."""
    prediction, reference = box(slice(4, 7), value=1), box(slice(3, 8), value=1)
    assert scores("umamba", prediction, reference, LIVER)["nsd"] == 1
    found = scores("umamba", 5 * prediction, 5 * reference, AORTA)
    assert found["nsd"] < 1


def test_the_aorta_counts_from_its_lowest_slice_to_its_highest_which_is_left_out():
    """Reference in slices 2-5, prediction in 0-9: slices 2, 3, 4 are compared, and agree."""
    reference = box(slice(2, 6), slice(3, 5), slice(3, 5), value=5)
    prediction = box(slice(0, 10), slice(3, 5), slice(3, 5), value=5)
    assert scores("umamba", prediction, reference, AORTA) == {"dice": 1.0, "nsd": 1.0}
    assert scores("umamba", prediction // 5, reference // 5, LIVER)["dice"] == round(2 * 4 / 14, 4)
    prediction[3] = 0  # one of the three slices
    assert scores("umamba", prediction, reference, AORTA)["dice"] == 0.8
    prediction[[2, 4]] = 0  # what is left lies in the slice left out, and beyond
    assert scores("umamba", prediction, reference, AORTA) == {"dice": 0, "nsd": 0}


@pytest.mark.parametrize(("number", "is_tube"), [(5, True), (6, True), (10, True), (9, False)])
def test_three_organs_are_tubes(number, is_tube):
    """Slices 2-5 of the reference, 0-9 of the prediction: Dice of 2, 3, 4 alone is 1, of all 8/14."""
    reference, prediction = (box(slices, value=number) for slices in (slice(2, 6), slice(0, 10)))
    found = scores("umamba", prediction, reference, Label("", (number,)))
    assert found["dice"] == (1 if is_tube else round(8 / 14, 4))


def test_umamba_has_no_number_for_a_tube_of_one_slice():
    reference = box(slice(2, 3), value=5)
    assert all(math.isnan(value) for value in scores("umamba", reference, reference, AORTA).values())


def test_umamba_scores_absent_organs_1_and_rounds_cases_to_4_digits():
    empty, full = box(), box(slice(1, 4), slice(0, 5))
    for label in (LIVER, AORTA):
        assert scores("umamba", 0 * empty, 0 * empty, label) == {"dice": 1, "nsd": 1}
    empty[:] = 0
    assert (
        scores("umamba", empty, full, LIVER) == scores("umamba", full, empty, LIVER) == {"dice": 0, "nsd": 0}
    )
    third = scores("umamba", line(1, 2), line(2, 3, 4, 5, 6), LIVER)["dice"]
    assert third == 0.2857  # 2/7


# BraTS, lesion by lesion (isotropic, 1 mm)


def cubes(*corners, side=4, grid=(16, 16, 48)):
    array = np.zeros(grid, np.uint8)
    for z, y, x in corners:
        array[z : z + side, y : y + side, x : x + side] = 1
    return array


def lesions(prediction, reference, spacing_mm=(1.0, 1.0, 1.0)):
    return scores("brats-lesionwise", prediction, reference, spacing_mm=spacing_mm)


def test_a_lesion_found_exactly_scores_1_and_0():
    one = cubes((4, 4, 4))
    assert lesions(one, one) == {"dice": 1, "hd95": 0}


def test_missed_and_invented_lesions_count_0_and_374_each():
    """Two lesions, one found; one false positive: three scores."""
    reference = cubes((4, 4, 4), (4, 4, 20))
    prediction = cubes((4, 4, 4), (4, 4, 36))
    assert lesions(prediction, reference) == pytest.approx({"dice": 1 / 3, "hd95": 2 * 374 / 3})


def test_lesions_of_50_voxels_are_left_out_but_their_predictions_are_no_false_positives():
    """5 x 5 x 2 = 50 voxels: out, though found; 51: in."""
    reference = cubes((4, 4, 4))
    reference[4:9, 4:9, 30:32] = 1
    prediction = cubes((4, 4, 4))
    prediction[4:6, 4:6, 30:32] = 1
    assert lesions(prediction, reference) == {"dice": 1, "hd95": 0}
    reference[4, 4, 32] = 1
    assert lesions(prediction, reference)["dice"] == pytest.approx((1 + 2 * 8 / (8 + 51)) / 2)


@pytest.mark.parametrize(("n_voxels", "dice"), [(10, 1), (11, 0.5)])
def test_the_limit_of_a_lesions_size_is_in_mm3(n_voxels, dice):
    """A missed lesion of voxels of 5 mm^3: 50 mm^3 are left out, 55 are not."""
    reference, prediction = cubes((4, 4, 4)), cubes((4, 4, 4))
    reference[4, 4, 30 : 30 + n_voxels] = 1
    assert lesions(prediction, reference, ANISOTROPIC_MM)["dice"] == dice


def test_a_small_false_positive_is_not_left_out():
    reference, prediction = cubes((4, 4, 4)), cubes((4, 4, 4))
    prediction[4, 4, 40] = 1
    assert lesions(prediction, reference) == pytest.approx({"dice": 0.5, "hd95": 187})


def test_lesions_whose_dilations_touch_are_one():
    """6 voxels between them: 3 of each dilation, which meet as neighbours."""
    for gap, n_lesions in ((6, 1), (7, 2)):
        reference = cubes((4, 4, 4), (4, 4, 8 + gap))
        prediction = cubes((4, 4, 4))
        expected = 2 * 64 / (64 + 128) if n_lesions == 1 else 0.5
        assert lesions(prediction, reference)["dice"] == pytest.approx(expected), gap


def test_a_prediction_near_a_lesion_belongs_to_it():
    """3 voxels beside the lesion: within its dilation, no overlap; 4 beside: a miss and a false positive."""
    reference = cubes((4, 4, 4))
    near, far = lesions(cubes((4, 4, 10)), reference), lesions(cubes((4, 4, 11)), reference)
    assert near["dice"] == far["dice"] == 0
    assert near["hd95"] == pytest.approx(6)  # every surfel is moved by 6
    assert far["hd95"] == 374
    assert lesions(cubes((4, 4, 10)), reference, (1.0, 1.0, 2.0))["hd95"] == pytest.approx(12)


def test_a_dilation_goes_over_edges_and_not_over_corners():
    """In each of three steps along two axes at most: from its corner 3 and 3, but not 3, 3 and 3."""
    reference = cubes((4, 4, 4))
    over_edges, over_corners = (lesions(cubes(place), reference) for place in ((10, 10, 4), (10, 10, 10)))
    assert over_edges["hd95"] <= math.hypot(6, 6)
    assert over_corners["hd95"] == 374


def test_what_touches_at_an_edge_or_a_corner_is_one_component():
    """A bar of the prediction goes on at its corner, far from the lesion: no false positive. The dilations of
    two lesions that meet at an edge alone make them one."""
    prediction, reference = cubes((8, 8, 31)), cubes((4, 4, 4))
    prediction[4:8, 4:8, 4:31] = 1
    assert lesions(prediction, reference)["dice"] == pytest.approx(2 * 64 / (64 + 64 + 16 * 27))
    grid = (24, 24, 16)
    reference, prediction = cubes((4, 4, 4), (14, 14, 4), grid=grid), cubes((4, 4, 4), grid=grid)
    assert lesions(prediction, reference)["dice"] == pytest.approx(2 * 64 / (64 + 128))


def test_hd95_of_a_lesion_leaves_out_5_percent_of_its_surface():
    """A cube of edge 20 with a spike of 4 x 4 x 12: of 2400 + 16 * 12 mm^2 the last 16 + 16 * 7.1 are 5 %,
    which begin 12 - 7.1 = 4.9 mm above the cube, within a voxel. 90 % lie on it."""
    reference = cubes((4, 4, 4), side=20, grid=(28, 28, 44))
    prediction = reference.copy()
    prediction[12:16, 12:16, 24:36] = 1
    assert lesions(prediction, reference)["hd95"] == pytest.approx(4.9, abs=1)


# The rest


def test_a_metric_that_a_protocol_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"nnformer does not define nsd, only dice, hd95"):
        check_metrics(PROTOCOLS["nnformer"], ("nsd",))
    with pytest.raises(ValueError, match=r"Unknown metric 'dsc'. Choose one of dice"):
        check_metrics(PROTOCOLS["honest"], ("dsc",))
    with pytest.raises(ValueError, match=r"Unknown protocol 'mine'. Choose one of honest"):
        get_protocol("mine")


def test_every_protocol_says_in_words_how_it_differs():
    assert set(PROTOCOLS) == {
        "honest", "transunet", "nnformer", "taming-mambas", "umamba", "vmunet-isic", "mamba-unet-acdc",
        "brats-lesionwise",
    }  # fmt: skip
    for protocol in PROTOCOLS.values():
        assert len(protocol.difference) > 20
        assert set(protocol.shown) <= set(protocol.measures)
