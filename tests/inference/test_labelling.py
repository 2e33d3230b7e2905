"""Labels of one pass beside those of nnU-Net's own export: equal, voxel by voxel."""

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as export_by_nnunet,
)
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy.ndimage import gaussian_filter
from tiny_models import HOW, managers, properties_of, tiny_dataset, tiny_plans

from nnunet_mamba.inference import labelling
from nnunet_mamba.inference.export import segment
from nnunet_mamba.inference.labelling import decide, decide_in_slabs
from nnunet_mamba.inference.resampling import Resampling, Target

TINY = 2.0**-24  # smallest float16
INSIDE = (26, 31, 22)
MARGINS = [(2, 3), (5, 4), (0, 0)]
GRIDS = {  # spacings of configuration and image, shape of the logits
    "isotropic": ((1.0, 1.0, 1.0), (1.5, 0.7, 0.8), (10, 20, 15)),
    "anisotropic": ((5.0, 1.0, 1.0), (4.0, 0.7, 0.8), (7, 40, 15)),
    "2d": ((1.0, 1.0), (4.0, 0.7, 0.8), (26, 20, 15)),
    "2d, thin slices": ((1.0, 1.0), (0.5, 0.7, 0.8), (26, 20, 35)),
    "the image's own": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), INSIDE),
}


def noise(shape, dtype, scale=3.0, seed=0):
    return torch.from_numpy((np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype))


def smooth(shape, dtype, seed=0):
    """Large connected parts of each label, as networks predict them."""
    values = np.random.default_rng(seed).normal(size=shape)
    values = gaussian_filter(values, (0, 2, 2, 2), mode="nearest")
    return torch.from_numpy((values / values.std() * 6).astype(dtype))


def stepped(shape, dtype, step, seed=0):
    """Whole multiples of `step` between -3 and 3, many of them equal."""
    values = np.random.default_rng(seed).integers(-3, 4, shape) * step
    return torch.from_numpy(values.astype(dtype))


def target_of(grid, transpose=(0, 1, 2), kind="labels", **how):
    """Managers of a model and properties of an image, of one of GRIDS."""
    spacing, of_image, _ = GRIDS[grid]
    plans = tiny_plans(spacing, transpose, **how)
    own = [of_image[axis] for axis in plans["transpose_backward"]]  # `of_image` is in the network's order
    properties = properties_of(plans, own, INSIDE, MARGINS)
    return *managers(plans), properties


def check(logits, kind, plans, configuration, properties, **options):
    labels = plans.get_label_manager(tiny_dataset(kind))
    expected = export_by_nnunet(logits.contiguous(), plans, configuration, labels, properties)
    target = Target.of_image(plans, configuration, properties, logits.shape)
    found = segment(logits, target, labels, **options)
    assert found.dtype == expected.dtype and found.shape == expected.shape == properties["own_shape"]
    assert np.array_equal(found, expected)
    return found


def n_heads(kind):
    return {"300 labels": 300}.get(kind, 2 if kind == "regions" else 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["labels", "regions", "priorities", "ignore"])
def test_labels_are_nnunets(kind, grid, dtype):
    for transpose in ((0, 1, 2), (2, 0, 1)):
        for make in (noise, smooth):
            logits = make((n_heads(kind), *GRIDS[grid][2]), dtype)
            found = check(logits, kind, *target_of(grid, transpose))
            assert len(np.unique(found)) == (3 if kind == "regions" else 3 + (kind == "priorities"))


@pytest.mark.parametrize("how", [{"order": 0}, {"order_z": 1}, {"order": 0, "order_z": 1}], ids=str)
@pytest.mark.parametrize("kind", ["labels", "priorities"])
def test_labels_are_nnunets_with_other_orders(kind, how):
    for dtype in (np.float16, np.float32):
        for grid in ("isotropic", "anisotropic"):
            check(noise((3, *GRIDS[grid][2]), dtype), kind, *target_of(grid, **how))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_more_labels_than_a_byte_holds(dtype):
    logits = noise((300, *(size // 2 for size in GRIDS["isotropic"][2])), dtype)
    found = check(logits, "300 labels", *target_of("isotropic", (1, 2, 0)))
    assert found.dtype == np.uint16 and found.max() > 255


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("step", [1.0, 2.0**-10, TINY, 20000.0], ids=["ones", "fractions", "tiny", "large"])
def test_labels_that_tie_go_where_nnunets_go(kind, dtype, step):
    """Of twice as many voxels along each axis weights are exact, and with few different logits many tie: some
    only once they are rounded to float16, by halves to even."""
    old, new = (7, 8, 9), (14, 16, 18)
    plans, configuration = managers(tiny_plans())
    properties = properties_of(plans.plans, (0.5, 0.5, 0.5), new, MARGINS)
    for seed in range(3):
        logits = stepped((n_heads(kind), *old), dtype, step, seed)
        resampled = resample_data_or_seg_to_shape(logits, new, (1, 1, 1), (0.5, 0.5, 0.5), **HOW)
        best, second = np.sort(resampled, axis=0)[[-1, -2]] if kind == "labels" else (resampled, 0)
        assert (best == second).sum() > 20
        check(logits, kind, plans, configuration, properties)


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_ties_that_only_rounding_makes(kind):
    """Logits one float16 apart: interpolated, they are equal in float16 and not before."""
    old, new = (5, 6, 7), (10, 12, 14)
    plans, configuration = managers(tiny_plans())
    properties = properties_of(plans.plans, (0.5, 0.5, 0.5), new, MARGINS)
    base = 7.0 if kind == "labels" else 0.0
    step = 2.0**-8 if kind == "labels" else TINY
    logits = (base + stepped((n_heads(kind), *old), np.float32, step)).half()
    exact = resample_data_or_seg_to_shape(logits.double(), new, (1, 1, 1), (0.5, 0.5, 0.5), **HOW)
    assert (exact.argmax(0) != exact.astype(np.float16).argmax(0)).any() or kind == "regions"
    check(logits, kind, plans, configuration, properties)


@pytest.mark.parametrize("separate, order_z", [(None, 0), (0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)])
def test_ties_that_the_order_of_sums_makes(separate, order_z):
    """Sizes in the ratio of small numbers bring sums to the middle between two float16, where the last bit of
    a float64, and so the order of its summands, decides.

    With order_z 1, which is not nnU-Net's default, skimage clips between the two steps: that is not followed.
    """
    old = (6, 8, 10)
    spacing = [5.0 if axis == separate else 1.0 for axis in range(3)]
    labels = managers(tiny_plans())[0].get_label_manager(tiny_dataset("labels"))
    for new in ((9, 12, 15), (15, 20, 25), (4, 12, 5), (6, 12, 15)):
        for seed in range(4):
            logits = (7.0 + stepped((3, *old), np.float32, 2.0**-8, seed)).half()
            how = {**HOW, "order_z": order_z}
            expected = resample_data_or_seg_to_shape(logits, new, spacing, spacing, **how).argmax(0)
            found = np.empty(new, np.uint8)
            decide(logits, Resampling(old, new, 1, order_z, separate), labels, found)
            assert (found != expected).sum() <= 5 * order_z


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_label_that_wins_at_every_corner_by_a_hair_may_tie_between(dtype):
    """The second label's logits are the next larger numbers: where their spacing differs between corners,
    both may round to the same, and the first label wins."""
    old, new = (7, 8, 9), (14, 16, 18)
    plans, configuration = managers(tiny_plans())
    properties = properties_of(plans.plans, (0.5, 0.5, 0.5), new, [(0, 0)] * 3)
    base = np.abs(noise((1, *old), dtype, scale=10.0).numpy())
    logits = torch.from_numpy(np.concatenate([base, np.nextafter(base, dtype(np.inf)), -base]))
    found = check(logits, "ignore", plans, configuration, properties)
    assert set(np.unique(found)) == {0, 1}


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, TINY, 2 * TINY, 65504.0, -65504.0])
@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_constant_logits(kind, value):
    for dtype in (torch.float16, torch.float32):
        logits = torch.full((n_heads(kind), *GRIDS["isotropic"][2]), value, dtype=dtype)
        check(logits, kind, *target_of("isotropic"))


@pytest.mark.parametrize("scale", [20000.0, TINY, 2.0**-15], ids=["large", "subnormal", "small"])
@pytest.mark.parametrize("kind", ["labels", "priorities"])
def test_logits_at_the_ends_of_float16(kind, scale):
    for grid in ("isotropic", "anisotropic"):
        logits = noise((3, *GRIDS[grid][2]), np.float32, scale).clamp(-65504, 65504)
        assert scale < 1000 or (logits.half().abs() == 65504).any()
        check(logits.half(), kind, *target_of(grid))


def test_a_label_wins_where_it_wins_at_no_corner():
    """Between A and B, C is second at both ends and first in the middle, by interpolation alone."""
    logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0], [1.0, 1.0]]).view(3, 2, 1, 1).expand(3, 2, 2, 2)
    found = check(logits.half(), "ignore", *corner_target((10, 4, 4)))
    assert list(found[MARGINS[0][0] : -MARGINS[0][1], 6, 1]) == [0] * 4 + [2] * 2 + [1] * 4


def corner_target(inside):
    plans = tiny_plans()
    return *managers(plans), properties_of(plans, (1.0, 1.0, 1.0), inside, MARGINS)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 9), (6, 1, 9), (6, 8, 1)])
def test_axes_of_one_voxel(shape):
    for inside in ((1, 1, 1), (1, 9, 5), (7, 4, 1)):
        check(noise((3, *shape), np.float16), "labels", *corner_target(inside))


def test_logits_may_be_part_of_larger_ones():
    """nnU-Net cuts what it padded."""
    whole = noise((3, 14, 24, 19), np.float16)
    part = whole[:, 2:-2, 2:-2, 2:-2]
    assert not part.is_contiguous() and part.shape[1:] == GRIDS["isotropic"][2]
    for logits in (part, part.float()[:, ::1], whole.float()[:, 2:-2, 2:-2, 2:-2]):
        check(logits, "labels", *target_of("isotropic"))


@pytest.mark.parametrize("planes", [1, 3, 8, 100])
def test_the_number_of_threads_and_of_planes_does_not_matter(monkeypatch, planes):
    logits, target = smooth((3, *GRIDS["isotropic"][2]), np.float16), target_of("isotropic")
    monkeypatch.setattr(labelling.run_over_planes, "__defaults__", (planes,))
    results = [check(logits, "priorities", *target, n_threads=n) for n in (1, 2, 5, None)]
    assert all(np.array_equal(result, results[0]) for result in results)


def labels_in_slabs(logits, resampling, labels, planes):
    names = np.array([0, *labels.regions_class_order]) if labels.has_regions else np.arange(len(logits))
    found = np.empty(resampling.new_shape, np.uint8)
    largest = [max(found.shape[axis], resampling.old_shape[axis]) for axis in (1, 2)]
    slab_bytes = planes * 16 * len(logits) * int(np.prod(largest))
    decide_in_slabs(logits, resampling.interpolations(), labels.has_regions, names, found, slab_bytes)
    return found


@pytest.mark.parametrize("kind", ["labels", "priorities", "regions"])
@pytest.mark.parametrize("separate", [None, 0, 2])
@pytest.mark.parametrize("planes", [0, 1, 5, 1000])
def test_slabs_of_torch_decide_as_the_kernels_do(kind, separate, planes):
    """Up to ties: float32 may round to another float16 than float64 does."""
    labels = managers(tiny_plans())[0].get_label_manager(tiny_dataset(kind))
    for old, new in (((7, 20, 15), (17, 31, 22)), ((17, 31, 22), (7, 20, 15)), ((7, 8, 9), (7, 8, 9))):
        resampling = Resampling(old, new, 1, 1, separate)
        for logits in (noise((n_heads(kind), *old), np.float16), smooth((n_heads(kind), *old), np.float32)):
            expected = np.empty(new, np.uint8)
            decide(logits, resampling, labels, expected)
            found = labels_in_slabs(logits, resampling, labels, planes)
            assert (found != expected).mean() < 1e-3


def test_slabs_decide_exactly_where_weights_are_exact():
    labels = managers(tiny_plans())[0].get_label_manager(tiny_dataset("regions"))
    resampling = Resampling((5, 6, 7), (10, 12, 14), 1, 0, None)
    for step in (1.0, TINY):
        logits = stepped((2, 5, 6, 7), np.float16, step)
        expected = np.empty(resampling.new_shape, np.uint8)
        decide(logits, resampling, labels, expected)
        assert np.array_equal(labels_in_slabs(logits, resampling, labels, 3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["labels", "priorities"])
def test_logits_on_a_gpu_are_decided_there_as_on_the_cpu(kind):
    labels = managers(tiny_plans())[0].get_label_manager(tiny_dataset(kind))
    resampling = Resampling((17, 31, 22), (25, 64, 41), 1, 0, None)
    logits = smooth((n_heads(kind), 17, 31, 22), np.float16)
    found, expected = np.empty((2, *resampling.new_shape), np.uint8)
    decide(logits, resampling, labels, expected)
    decide(logits.cuda(), resampling, labels, found)
    assert (found != expected).mean() < 1e-3
