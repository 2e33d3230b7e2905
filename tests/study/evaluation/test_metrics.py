"""Masks small enough to draw, answers worked out by hand; and a slow oracle for the rest."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave
from surface_reference import blobs, reference_metrics

import nnunet_mamba
from nnunet_mamba.cli import main
from nnunet_mamba.study.evaluation import read_table, surfaces
from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.masks import ConfusionCounts, LabelMapPair, find_boxes
from nnunet_mamba.study.evaluation.metrics import EMPTY_POLICIES, METRICS, Metric
from nnunet_mamba.study.evaluation.protocols import PROTOCOLS
from nnunet_mamba.study.statistics import compare

SPACING_MM = (3.0, 1.0, 0.5)  # z, y, x
LABEL = Label("organ", (1,))
HONEST = PROTOCOLS["honest"]
DISTANCES = ["hd95", "hd100", "assd", "masd", "asd"]
RATES = ["sensitivity", "specificity", "accuracy", "volume_error"]


def mask(*boxes: tuple[slice, ...], grid: tuple[int, ...] = (8, 16, 16)) -> np.ndarray:
    array = np.zeros(grid, np.uint8)
    for box in boxes:
        array[box] = 1
    return array


def pair(prediction, reference, spacing_mm=SPACING_MM, tolerance_mm=1.0):
    as_labels = (np.asarray(prediction, np.uint8), np.asarray(reference, np.uint8))
    return LabelMapPair(*as_labels, spacing_mm[-np.ndim(prediction) :]).pair(LABEL, tolerance_mm)


def value(metric, prediction, reference, spacing_mm=SPACING_MM, tolerance_mm=1.0):
    return HONEST.value(metric, pair(prediction, reference, spacing_mm, tolerance_mm))


def ball(centre, radius, grid=(60, 60, 60)):
    return sum((x - c) ** 2 for x, c in zip(np.indices(grid), centre, strict=True)) <= radius**2


def test_voxel_counts_of_two_boxes():
    """4 voxels predicted and 6 in the reference, 2 of them shared, on a grid of 20: FP 2, FN 4, TN 12."""
    p, r = mask((slice(0, 4),), grid=(20,)), mask((slice(2, 8),), grid=(20,))
    expected = {
        "dice": 4 / 10,
        "iou": 2 / 8,
        "precision": 2 / 4,
        "sensitivity": 2 / 6,
        "specificity": 12 / 14,
        "accuracy": 14 / 20,
        "volume_error": 2 / 6,
    }
    assert {metric: value(metric, p, r, (1.0,)) for metric in expected} == pytest.approx(expected)


def test_volume_error_is_relative_to_the_reference_and_has_no_sign():
    half, whole = mask((slice(2, 4),)), mask((slice(2, 6),))
    assert value("volume_error", half, whole) == 0.5
    assert value("volume_error", whole, half) == 1.0


@pytest.mark.parametrize(
    ("axis", "expected_mm"), [(0, 6.0), (1, 2.0), (2, 1.0)], ids=["2 slices", "2 rows", "2 columns"]
)
@pytest.mark.parametrize("metric", DISTANCES)
def test_two_voxels_two_steps_apart_are_two_spacings_apart(axis, expected_mm, metric):
    there = [3, 3, 3]
    there[axis] += 2
    assert value(metric, mask((3, 3, 3)), mask(tuple(there))) == pytest.approx(expected_mm)


def test_distance_along_the_diagonal_is_pythagorean():
    assert value("hd95", mask((1, 1, 2)), mask((2, 5, 2))) == pytest.approx(5.0)  # 3 mm and 4 mm


def test_averages_differ_in_what_they_pool():
    """Prediction: voxels at 0 and 10; reference: a voxel at 0. Distances {0, 10} there, {0} back."""
    p, r = mask((0,), (10,), grid=(12,)), mask((0,), grid=(12,))
    assert value("asd", p, r, (1.0,)) == 5
    assert value("asd", r, p, (1.0,)) == 0
    assert value("masd", p, r, (1.0,)) == 2.5
    assert value("assd", p, r, (1.0,)) == pytest.approx(10 / 3)
    assert value("hd100", p, r, (1.0,)) == 10
    assert value("hd95", p, r, (1.0,)) == pytest.approx(9.5)  # interpolated


def test_a_box_moved_by_one_slice_has_the_slice_thickness_as_its_distance():
    a, b = mask((slice(2, 5), slice(4, 9), slice(4, 9))), mask((slice(3, 6), slice(4, 9), slice(4, 9)))
    assert value("hd95", a, b) == pytest.approx(3.0)  # the far face, 25 of 66 surface voxels, is 3 mm away


def test_concentric_spheres_are_as_far_apart_as_their_radii_within_a_voxel():
    p, r = ball((30, 30, 30), 23), ball((30, 30, 30), 20)
    for metric in ("hd100", "hd95", "assd", "masd", "asd"):
        assert value(metric, p, r, (1.0, 1.0, 1.0)) == pytest.approx(3.0, abs=0.5)
    assert value("nsd", p, r, (1.0, 1.0, 1.0), tolerance_mm=4.0) == 1
    assert value("nsd", p, r, (1.0, 1.0, 1.0), tolerance_mm=1.0) == 0


def test_the_far_false_positive_is_20_mm_here_and_nothing_in_the_pooled_percentile():
    """A ball of radius 20, found but for a small ball whose surface is some 20 mm away."""
    grid = (50, 50, 80)
    reference = ball((25, 25, 22), 20, grid)
    prediction = reference | ball((25, 25, 66), 5, grid)
    assert value("hd95", prediction, reference, (1.0, 1.0, 1.0)) == pytest.approx(20.08, abs=0.01)
    here = pair(prediction, reference, (1.0, 1.0, 1.0))
    assert PROTOCOLS["nnformer"].value("hd95", here.in_voxels()) == 0


def test_surface_dice_of_a_square_counts_its_edge_in_mm():
    """Squares of 4 x 4, one 7 mm below the other: the facing edges are 3 mm apart, the far ones 7."""
    p, r = mask((slice(2, 6), slice(2, 6)), grid=(20, 20)), mask((slice(9, 13), slice(2, 6)), grid=(20, 20))
    assert value("nsd", p, p, (1.0, 1.0)) == value("nsd", p, p, (1.0, 1.0), tolerance_mm=0.0) == 1
    assert value("nsd", p, r, (1.0, 1.0), tolerance_mm=7.0) == 1
    assert value("nsd", p, r, (1.0, 1.0), tolerance_mm=2.0) == 0
    assert 0 < value("nsd", p, r, (1.0, 1.0), tolerance_mm=3.0) < 0.5


def test_surface_dice_takes_a_distance_equal_to_the_tolerance_for_near():
    """0.8 mm as a header of float32 has it, which is more than 0.8; a square moved by one pixel."""
    spacing_mm = (float(np.float32(0.8)),) * 2
    assert spacing_mm[0] > 0.8
    p, r = mask((slice(3, 9), slice(3, 9)), grid=(20, 20)), mask((slice(4, 10), slice(3, 9)), grid=(20, 20))
    assert value("nsd", p, r, spacing_mm, tolerance_mm=0.8) == 1
    assert value("nsd", p, r, spacing_mm, tolerance_mm=0.79) < 1


def test_the_robust_hausdorff_distance_is_a_percentile_of_area_and_the_larger_of_two():
    """There 19 of 20 mm^2 are at 0 mm, which is 95 %; back half of the area is at 1 mm."""
    there, back = (np.array([9.0, 0.0]), np.array([1.0, 19.0])), (np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    one_way = surfaces.Surfaces(there[0], back[0], there[1], back[1])
    other_way = surfaces.Surfaces(back[0], there[0], back[1], there[1])
    assert surfaces.weighted_percentile_mm(one_way, 95) == 1
    assert surfaces.weighted_percentile_mm(other_way, 95) == 1
    assert surfaces.weighted_percentile_mm(one_way, 96) == 9


def test_the_same_answer_in_two_dimensions():
    a, b = mask((slice(2, 4), slice(2, 4)), grid=(9, 9)), mask((slice(4, 6), slice(2, 4)), grid=(9, 9))
    assert value("hd95", a, b, (1.5, 1.0)) == pytest.approx(3.0)


def test_surface_at_the_image_border_counts():
    everything, half = mask((slice(None),)), mask((slice(0, 4),))
    assert value("hd95", everything, half, (1.0, 1.0, 1.0)) == pytest.approx(4.0)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.7, 1.3, 2.9)], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_surface_metrics_equal_the_dense_distance_transforms(seed, spacing_mm):
    p, r = blobs(np.random.default_rng(seed), (24, 31, 18))
    expected = reference_metrics(p, r, spacing_mm)
    pooled = expected.pop("medpy_hd95")
    assert {metric: value(metric, p, r, spacing_mm) for metric in expected} == pytest.approx(expected)
    here = pair(p, r, spacing_mm)
    assert PROTOCOLS["mamba-unet-acdc"].measures["hd95"](here) == pytest.approx(pooled)


def test_surface_metrics_equal_monais_own():
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    spacing_mm = (5.0, 0.8, 0.8)
    p, r = blobs(np.random.default_rng(9), (24, 31, 18))
    images = [torch.from_numpy(m)[None, None] for m in (p, r)]
    options = {"include_background": True, "spacing": list(spacing_mm)}
    expected = {
        "hd95": compute_hausdorff_distance(*images, percentile=95, **options),
        "hd100": compute_hausdorff_distance(*images, **options),
        "assd": compute_average_surface_distance(*images, symmetric=True, **options),
        "asd": compute_average_surface_distance(*images, **options),
        "nsd": compute_surface_dice(*images, [1.0], use_subvoxels=True, **options),
    }
    for metric, monais in expected.items():
        assert value(metric, p, r, spacing_mm) == pytest.approx(float(monais), rel=1e-5), metric


# Empty masks


def test_both_empty_is_undefined_in_every_metric():
    assert all(math.isnan(value(metric, mask(), mask())) for metric in METRICS)


def test_one_empty_is_the_worst_or_says_nothing():
    empty, full = mask(), mask((slice(2, 5),))
    diagonal = math.sqrt((8 * 3) ** 2 + 16**2 + 8**2)
    for p, r in ((empty, full), (full, empty)):
        assert [value(metric, p, r) for metric in ("dice", "iou", "nsd", "precision", "f1")] == [0] * 5
        assert [value(metric, p, r) for metric in DISTANCES] == pytest.approx([diagonal] * 5)
    assert [value(metric, empty, full) for metric in RATES] == [0, 1, 5 / 8, 1]
    nothing, specificity, accuracy, volume = (value(metric, full, empty) for metric in RATES)
    assert (specificity, accuracy) == (5 / 8, 5 / 8)
    assert math.isnan(nothing) and math.isnan(volume)


@pytest.mark.parametrize(
    ("policy", "both", "one"),
    [
        ("nan", (math.nan, math.nan), (0, math.nan)),
        ("inf", (math.nan, math.nan), (0, math.inf)),
        ("brats", (1, 0), (0, 373.13)),
    ],
)
def test_other_policies_for_empty_masks(policy, both, one):
    empty, full = mask(), mask((slice(2, 5),))
    for metric, which in (("dice", 0), ("hd95", 1)):
        rule = EMPTY_POLICIES[policy]
        for p, r, expected in ((empty, empty, both), (empty, full, one), (full, empty, one)):
            found = rule.value(metric, METRICS[metric], pair(p, r))
            assert found == pytest.approx(expected[which], nan_ok=True)


# Pairs


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_boxes_are_found_whatever_the_labels_are(dtype):
    array = np.zeros((6, 7), dtype)
    array[1:3, 2:5], array[5, 6] = 1, 100
    assert find_boxes(array) == {1: (slice(1, 3), slice(2, 5)), 100: (slice(5, 6), slice(6, 7))}


def test_boxes_of_huge_and_negative_labels():
    array = np.zeros((4, 4), np.int32)
    array[0, 1], array[2:, 3] = 70000, -1
    assert find_boxes(array) == {70000: (slice(0, 1), slice(1, 2)), -1: (slice(2, 4), slice(3, 4))}


def test_a_pair_is_cut_to_both_masks_and_knows_where_it_was():
    here = pair(mask((3, 3, 3)), mask((5, 0, 15)))
    assert here.box == (slice(3, 6), slice(0, 4), slice(3, 16))
    assert np.array_equal(here.on_grid(here.prediction), mask((3, 3, 3)).astype(bool))
    assert here.counts.tn == 8 * 16 * 16 - 2


def test_voxels_that_the_reference_leaves_open_count_in_no_cell_of_the_confusion_matrix():
    """Of ten voxels four are open, one of them predicted: TP 1, FP 1, FN 2, TN 2 are left."""
    prediction = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0], np.uint8)
    reference = np.array([1, 0, 1, 1, 9, 9, 9, 9, 0, 0], np.uint8)
    here = LabelMapPair(prediction, reference, (1.0,), ignore=9).pair(LABEL)
    assert here.counts == ConfusionCounts(tp=1, fp=1, fn=2, tn=2)
    assert (HONEST.value("specificity", here), HONEST.value("accuracy", here)) == (2 / 3, 3 / 6)


def test_a_cut_pair_knows_where_it_is_and_counts_what_is_left():
    """Of a box that begins at slice 2, its slices 1 and 2: slices 3 and 4 of the image."""
    p, r = mask((slice(2, 7), slice(4, 9), slice(5, 8))), mask((slice(3, 6), slice(4, 9), slice(5, 8)))
    whole = pair(p, r)
    cut = whole.cut(0, 1, 3)
    assert np.flatnonzero(cut.on_grid(cut.prediction).any((1, 2))).tolist() == [3, 4]
    assert cut.counts == ConfusionCounts(tp=2 * 15, fp=0, fn=0, tn=whole.counts.tn)


def test_counted_in_voxels_the_images_diagonal_is_too():
    here = pair(mask((1, 1, 1)), mask((3, 1, 1))).in_voxels()
    assert here.voxels.to_reference_mm.tolist() == [2]
    assert here.diagonal_mm == pytest.approx(math.sqrt(8**2 + 16**2 + 16**2))


def test_a_region_is_boxed_around_all_of_its_labels():
    array = mask((1, 1, 1))
    array[6, 9, 9] = 2
    here = LabelMapPair(array, array, SPACING_MM).pair(Label("both", (1, 2)))
    assert here.counts.tp == 2
    assert here.box == (slice(1, 7), slice(1, 10), slice(1, 10))


def test_surfels_found_in_slabs_are_those_of_the_whole(monkeypatch):
    p, r = np.random.default_rng(0).random((2, 9, 12, 10)) > 0.6
    whole = surfaces.surfel_surfaces(p, r, SPACING_MM)
    for n_voxels in (1, 300, 500):  # slabs of 1, 1 and 2 slices
        monkeypatch.setattr(surfaces, "SLAB", n_voxels)
        parts = surfaces.surfel_surfaces(p, r, SPACING_MM)
        for name, values in vars(whole).items():
            assert np.array_equal(getattr(parts, name), values), name


# The table


@pytest.mark.parametrize("higher", [True, False])
def test_a_metric_that_is_only_in_the_table_is_listed_scored_and_compared(
    monkeypatch, tmp_path, capsys, higher
):
    """The share of false positives among all voxels, 2/16; another method has it twice."""
    row = Metric("fp_share", "FP share", "", higher, "overlap", lambda c: c.fp / (c.tp + c.fp + c.fn + c.tn))
    monkeypatch.setitem(METRICS, row.name, row)
    assert main(["evaluate", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert (
        listed[0].endswith(", f1, fp_share") and "computes dice, " in listed[2] and ", fp_share;" in listed[2]
    )
    for folder, columns in (("pred", 2), ("ref", 1)):
        (tmp_path / folder).mkdir()
        image = np.zeros((4, 4), np.uint8)
        image[:2, :columns] = 1
        imsave(tmp_path / folder / "a.png", image, check_contrast=False)
    table = tmp_path / "scores.csv"
    folders = [str(tmp_path / "pred"), str(tmp_path / "ref")]
    assert main(["evaluate", *folders, "--metrics", "fp_share", "--out", str(table), "-j", "1"]) == 0
    (score,) = read_table(table)
    assert (score.metric, score.value, score.backend) == ("fp_share", 2 / 16, "numpy")
    mine = [replace(score, case=str(i), trainer="A", value=score.value + i / 100) for i in range(6)]
    theirs = [replace(each, trainer="B", value=2 * each.value) for each in mine]
    (found,) = compare([*mine, *theirs], metric="fp_share", n_bootstrap=100)
    assert found.higher_is_better is higher
    assert found.comparisons[0].verdict == ("better" if higher else "worse")  # B against A


def test_the_table_is_the_only_source_file_that_lists_the_metrics():
    """Metrics that no protocol of a paper has, and so no other file needs to name."""
    names = {"hd100", "assd", "masd", "precision", "volume_error"} & set(METRICS)
    sources = {path: path.read_text() for path in Path(nnunet_mamba.__path__[0]).rglob("*.py")}
    listing = [path.name for path, text in sources.items() if all(f'"{name}"' in text for name in names)]
    assert len(names) == 5 and listing == ["metrics.py"]


def test_titles_and_units_are_those_of_pages():
    assert {metric.title for metric in METRICS.values() if metric.unit == "mm"} == {
        "HD95", "HD100", "ASSD", "MASD", "ASD",
    }  # fmt: skip
    assert {name for name, metric in METRICS.items() if metric.uses_tolerance} == {"nsd"}
    assert all(name == metric.name for name, metric in METRICS.items())
