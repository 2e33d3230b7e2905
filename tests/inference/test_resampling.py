"""Resampling as matrices, beside nnU-Net's own function.

Tolerances: in float64 some 1e-15 per sum; in float32 some 1e-7 of the largest value, and as much again per
axis.
"""

from itertools import product

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from tiny_models import HOW, managers, properties_of, tiny_plans

from nnunet_mamba.inference.resampling import Interpolation, Resampling, Target, resample_image

ISOTROPIC = (1.0, 1.0, 1.0)
SHAPES = {
    "up": ((7, 9, 11), (10, 20, 13)),
    "down": ((7, 9, 11), (5, 4, 8)),
    "up and down": ((7, 9, 11), (3, 20, 11)),
    "from one voxel": ((1, 9, 11), (4, 5, 13)),
    "to one voxel": ((7, 9, 11), (1, 12, 1)),
    "one voxel": ((1, 9, 11), (1, 20, 11)),
    "equal": ((7, 9, 11), (7, 9, 11)),
    "equal along an axis": ((7, 9, 11), (7, 12, 9)),
}


def spacing_with(separate: int | None) -> tuple[float, ...]:
    return tuple(5.0 if axis == separate else 1.0 for axis in range(3))


def both(values, old, new, separate, **options):
    """nnU-Net's result and our resampling."""
    options = {**HOW, **options}
    expected = resample_data_or_seg_to_shape(values, new, spacing_with(separate), ISOTROPIC, **options)
    ours = Resampling.from_plans(options, old, new, spacing_with(separate), ISOTROPIC)
    assert ours.separate_axis == separate
    return expected, ours


def along(values, ours, axis):
    """Resample (C, x, y, z) along one axis by its matrix."""
    return np.moveaxis(np.tensordot(ours.matrix(axis), values, (1, axis + 1)), 0, axis + 1)


@pytest.mark.parametrize("separate", [None, 0, 1, 2])
@pytest.mark.parametrize("sizes", SHAPES)
def test_the_matrices_of_the_axes_are_nnunets_resampling(sizes, separate):
    old, new = SHAPES[sizes]
    values = np.random.default_rng(0).normal(size=(2, *old))
    for order, order_z in product((0, 1, 3), (0, 1)):
        expected, ours = both(values, old, new, separate, order=order, order_z=order_z)
        found = values
        for axis in (axis for axis in range(3) if axis != separate):
            found = along(found, ours, axis)
        within = tuple(axis + 1 for axis in range(3) if axis != separate)  # skimage clips what it resamples
        found = np.clip(found, values.min(within, keepdims=True), values.max(within, keepdims=True))
        found = found if separate is None else along(found, ours, separate)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("separate", [None, 0, 1, 2])
@pytest.mark.parametrize("sizes", SHAPES)
def test_images_are_resampled_as_nnunet_does_clipping_included(sizes, separate):
    old, new = SHAPES[sizes]
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, *old)).astype(np.float32)
    values[1] *= 1000
    for order, order_z in product((0, 1, 3), (0, 1)):
        expected, ours = both(values, old, new, separate, order=order, order_z=order_z)
        found = resample_image(values, ours)
        assert found.dtype == np.float32 and found.shape == expected.shape
        for channel, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(channel, theirs, rtol=0, atol=3e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("separate", [None, 1])
def test_splines_overshoot_no_further_than_nnunet_lets_them(separate):
    """A step: order 3 leaves the range of the values, and is clipped, per slice where an axis is separate."""
    values = np.zeros((1, 12, 10, 14), np.float32)
    values[:, 6:, :, :7] = 1 + np.arange(10)[:, None]
    for order_z in (0, 1):
        expected, ours = both(values, values.shape[1:], (20, 15, 17), separate, order=3, order_z=order_z)
        found = resample_image(values, ours)
        free = np.einsum("cxyz,ax,by,dz->cabd", values, *(ours.matrix(axis) for axis in range(3)))
        assert np.abs(free - expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_images_larger_than_a_block_of_a_matrix_and_of_voxels(monkeypatch):
    """Splines of order 3 reach far, and blocks of rows and slabs of planes must not show."""
    monkeypatch.setattr("nnunet_mamba.inference.resampling.SLAB", 1000)
    old, new = (150, 9, 80), (210, 14, 70)
    values = np.random.default_rng(2).normal(size=(1, *old)).astype(np.float32)
    for separate in (None, 0, 2):
        expected, ours = both(values, old, new, separate, order=3)
        np.testing.assert_allclose(resample_image(values, ours), expected, rtol=0, atol=3e-5)


def test_an_image_of_the_right_size_is_left_alone():
    values = np.random.default_rng(3).normal(size=(1, 4, 5, 6)).astype(np.float32)
    _, ours = both(values, (4, 5, 6), (4, 5, 6), None, order=3)
    assert resample_image(values, ours) is values


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("n_in, n_out", [(5, 10), (10, 5), (1, 4), (4, 1), (7, 7), (13, 17)])
def test_an_interpolation_holds_the_whole_matrix(n_in, n_out, order):
    for separate in (None, 0):
        ours = Resampling((n_in, 3, 3), (n_out, 4, 4), order, order, separate)
        matrix, along = ours.matrix(0), ours.interpolations()[0]
        assert isinstance(along, Interpolation)
        again = np.zeros_like(matrix)
        rows = np.arange(n_out)
        np.add.at(again, (rows, along.low), along.weights[:, 0])
        np.add.at(again, (rows, along.high), along.weights[:, 1])
        assert np.array_equal(again, matrix)
        assert (along.high - along.low <= 1).all() and (np.diff(along.low) >= 0).all()


def test_what_keeps_its_shape_needs_no_matrix():
    """Of a picture of 20000 pixels along an axis it would take 3 GB."""
    made = Resampling((1, 50000, 7), (1, 50000, 7), 1, 0, 0).interpolations()
    for n, ours in zip((1, 50000, 7), made, strict=True):
        assert len(ours.low) == n
        assert np.array_equal(ours.low, np.arange(n)) and np.array_equal(ours.high, np.arange(n))
        assert (ours.weights == [1, 0]).all()


@pytest.mark.parametrize("force", [True, False, None])
@pytest.mark.parametrize("threshold", [None, 2, 10])
def test_the_plans_say_which_axis_is_separate(force, threshold):
    options = {"force_separate_z": force, "order": 1, "order_z": 1}
    options |= {"separate_z_anisotropy_threshold": threshold} if threshold else {}
    values = np.random.default_rng(4).normal(size=(1, 6, 7, 8))
    spacing = (1.0, 1.0, 4.0)
    expected = resample_data_or_seg_to_shape(values, (9, 9, 9), spacing, ISOTROPIC, **options)
    ours = Resampling.from_plans(options, (6, 7, 8), (9, 9, 9), spacing, ISOTROPIC)
    assert (ours.separate_axis == 2) == (force is True or (force is None and threshold != 10))
    found = np.einsum("cxyz,ax,by,dz->cabd", values, *(ours.matrix(axis) for axis in range(3)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 1.0), (1.0, 1.0)])
def test_a_target_is_in_the_networks_order_of_axes(spacing):
    plans = tiny_plans(spacing, transpose=(2, 0, 1))
    properties = properties_of(plans, (0.7, 0.8, 4.0), (30, 41, 22), [(2, 3), (0, 0), (1, 0)])
    target = Target.of_image(*managers(plans), properties, (3, 24, 20, 15))
    assert target.resampling == Resampling((24, 20, 15), (30, 41, 22), 1, 0, 0)
    assert target.shape == (35, 41, 23)
    assert target.box == (slice(2, 32), slice(0, 41), slice(1, 23))
    assert np.empty(target.shape).transpose(target.transpose).shape == properties["own_shape"] == (41, 23, 35)
