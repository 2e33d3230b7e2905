"""Preprocessing of what is to be predicted, beside nnU-Net's own: the same image, the same properties.

Tolerance: float32's rounding, some 1e-6 of the largest value after splines along three axes.
"""

import gzip
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.preprocessing.preprocessors import default_preprocessor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from scipy.ndimage import binary_fill_holes
from tiny_files import write_volume
from tiny_models import managers, tiny_dataset, tiny_plans

from nnunet_mamba.inference import preprocessing
from nnunet_mamba.inference.preprocessing import fill_holes, find_nonzero_box, preprocess_case

SHAPE = (20, 33, 41)
GRID = {"spacing": (0.8, 0.7, 1.6)}
KEYS = {"spacing", "shape_before_cropping", "bbox_used_for_cropping", "sitk_stuff"}
KEYS |= {"shape_after_cropping_and_before_resampling"}


def body(seed, shape=SHAPE):
    """Noise with a frame of zeros, a hole and a notch of zeros, and zeros here and there."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32)
    values[:3] = values[:, 30:] = values[:, :, :7] = 0
    values[8:12, 10:14, 20:30] = values[5, 0:9, 20] = 0
    values[rng.random(shape) < 0.2] = 0
    return values


def write_case(folder, volumes, **grid):
    files = [folder / f"case_{channel:04d}.nii.gz" for channel in range(len(volumes))]
    for file, values in zip(files, volumes, strict=True):
        write_volume(file, values, **{**GRID, **grid})
    return [str(file) for file in files]


def write_labels(folder, shape=SHAPE):
    values = np.random.default_rng(9).integers(0, 3, shape).astype(np.uint8)
    write_volume(folder / "previous.nii.gz", values, **GRID)
    return str(folder / "previous.nii.gz")


def check(files, previous, plans, n_channels=1):
    """Compare with nnU-Net's; returns our image and properties."""
    manager, configuration = managers(plans)
    dataset = tiny_dataset("labels", n_channels)
    expected, labels, theirs = DefaultPreprocessor(verbose=False).run_case(
        files, previous, manager, configuration, dataset
    )
    if previous:
        expected = np.vstack([expected, convert_labelmap_to_one_hot(labels[0], [1, 2], expected.dtype)])
    image, ours = preprocess_case(files, previous, manager, configuration, dataset)
    assert image.dtype.is_floating_point and image.shape == expected.shape
    assert np.abs(image.numpy() - expected).max() <= 5e-6 * np.abs(expected).max()
    assert set(ours) == KEYS and set(theirs) >= KEYS
    for key in KEYS - {"sitk_stuff"}:
        assert np.array_equal(ours[key], theirs[key])
    assert ours["sitk_stuff"] == theirs["sitk_stuff"]
    return image, ours


@pytest.mark.parametrize("previous", [False, True], ids=["one stage", "second stage"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("normalization", ["ZScoreNormalization", "CTNormalization"])
def test_image_and_properties_are_nnunets(tmp_path, normalization, masked, previous):
    files, labels = write_case(tmp_path, [body(0), body(1)]), write_labels(tmp_path) if previous else None
    spacings = ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0))
    for transpose, spacing in product(((0, 1, 2), (2, 0, 1)), spacings):
        plans = tiny_plans(spacing, transpose, n_channels=2)
        plans["configurations"]["c"]["normalization_schemes"] = [normalization] * 2
        plans["configurations"]["c"]["use_mask_for_norm"] = [masked, False]
        check(files, labels, plans, n_channels=2)


def test_an_image_of_nothing_but_zeros_is_kept_whole(tmp_path):
    files = write_case(tmp_path, [np.zeros(SHAPE, np.float32)])
    _, properties = check(files, None, tiny_plans())
    assert properties["shape_after_cropping_and_before_resampling"] == SHAPE


@pytest.mark.parametrize("shape", [(1, 33, 41), (20, 1, 41), (20, 33, 1), (1, 1, 1), (1, 1, 41)])
@pytest.mark.parametrize("spacing", [(1.6, 0.7, 0.8), (1.0, 0.5, 0.6), (0.7, 0.8)])
def test_axes_of_one_voxel(tmp_path, shape, spacing):
    values = 1 + np.random.default_rng(0).random(shape).astype(np.float32)
    check(write_case(tmp_path, [values]), None, tiny_plans(spacing))


def test_an_axis_of_which_nothing_would_be_left_is_refused(tmp_path):
    """nnU-Net fails there as well, by an error of numpy."""
    files = write_case(tmp_path, [1 + np.zeros((1, 8, 9), np.float32)], spacing=(0.8, 0.7, 0.4))
    with pytest.raises(
        ValueError, match=r"has \(1, 8, 9\) voxels of .* less than half a voxel of the network"
    ):
        preprocess_case(files, None, *managers(tiny_plans()), tiny_dataset())


def test_resampling_of_the_plans_own_is_called(tmp_path):
    """One that nnU-Net's plans name, but not its default."""
    plans = tiny_plans()
    plans["configurations"]["c"] |= {
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": False},
    }
    check(write_case(tmp_path, [body(0)]), None, plans)


class OwnNormalization(ImageNormalization):
    """A normalisation as others write them, which looks at the mask without being told."""

    def run(self, image, seg=None):
        return np.where(seg >= 0, image - image[seg >= 0].mean(), -9)


def test_a_normalisation_of_the_plans_own_has_the_mask(tmp_path, monkeypatch):
    monkeypatch.setattr(default_preprocessor, "recursive_find_python_class", lambda *_: OwnNormalization)
    plans = tiny_plans()
    plans["configurations"]["c"]["normalization_schemes"] = ["OwnNormalization"]
    image, _ = check(write_case(tmp_path, [body(0)]), None, plans)
    assert image.min() < -8


class Doubling(DefaultPreprocessor):
    """A preprocessor as others write them."""

    def run_case_npy(self, *arguments):
        data, labels, properties = super().run_case_npy(*arguments)
        properties["mine"] = True
        return data * 2, labels, properties


@pytest.mark.parametrize("previous", [False, True])
def test_a_preprocessor_of_the_plans_own_is_run(tmp_path, monkeypatch, previous):
    files, labels = write_case(tmp_path, [body(0)]), write_labels(tmp_path) if previous else None
    manager, configuration = managers(tiny_plans())
    stock, _ = preprocess_case(files, labels, manager, configuration, tiny_dataset())
    monkeypatch.setattr(type(configuration), "preprocessor_class", property(lambda self: Doubling))
    image, properties = preprocess_case(files, labels, manager, configuration, tiny_dataset())
    assert properties["mine"] is True and len(image) == 1 + 2 * previous
    np.testing.assert_allclose(image[:1], 2 * stock[:1], rtol=0, atol=1e-4)
    assert np.array_equal(image[1:], stock[1:])


@pytest.mark.parametrize("spacing", [(0.8, 0.7, 0.0), (0.8, float("nan"), 1.6), (0.8, float("inf"), 1.6)])
def test_a_spacing_that_is_no_length_is_refused(tmp_path, monkeypatch, spacing):
    """ITK makes 1 of a 0 in NIfTI's header; other readers do not."""
    manager, configuration = managers(tiny_plans())
    reader = manager.image_reader_writer_class
    read = reader.read_images

    def read_spoilt(self, files):
        image, properties = read(self, files)
        return image, {**properties, "spacing": list(spacing)}

    monkeypatch.setattr(reader, "read_images", read_spoilt)
    with pytest.raises(ValueError, match=r"its spacing is \[0.8, .*\]; expected lengths in mm above 0"):
        preprocess_case(write_case(tmp_path, [body(0)]), None, manager, configuration, tiny_dataset())


@pytest.mark.parametrize("stored", [0.0, float("nan")])
def test_a_stored_spacing_that_readers_replace_is_refused(tmp_path, stored):
    files = write_case(tmp_path, [body(0)])
    content = bytearray(gzip.decompress(Path(files[0]).read_bytes()))
    struct.pack_into("<f", content, 76 + 4 * 2, stored)  # pixdim[2]
    Path(files[0]).write_bytes(gzip.compress(bytes(content)))
    manager, configuration = managers(tiny_plans())
    assert all(mm > 0 for mm in manager.image_reader_writer_class().read_images(files)[1]["spacing"])
    with pytest.raises(ValueError, match=r"its spacing is \[.*(0\.0|nan).*\]; expected lengths"):
        preprocess_case(files, None, manager, configuration, tiny_dataset())


def test_the_thickness_of_a_single_slice_may_be_missing(tmp_path):
    """Its spacing is then 1, for nnU-Net's readers and here."""
    files = write_case(tmp_path, [1 + np.random.default_rng(0).random((1, 8, 9)).astype(np.float32)])
    content = bytearray(gzip.decompress(Path(files[0]).read_bytes()))
    struct.pack_into("<f", content, 76 + 4 * 3, 0.0)  # pixdim[3]
    Path(files[0]).write_bytes(gzip.compress(bytes(content)))
    manager, configuration = managers(tiny_plans((1.0, 1.0)))
    image, properties = preprocess_case(files, None, manager, configuration, tiny_dataset())
    assert properties["spacing"][0] == 1.0 and image.shape[1] == 1


def test_channels_within_one_file_are_refused(tmp_path):
    """nnU-Net reads them, and fails to write the label map when the network is done."""
    file = str(tmp_path / "case_0000.nii.gz")
    volume = [sitk.GetImageFromArray(body(channel)) for channel in range(2)]
    sitk.WriteImage(sitk.JoinSeries(volume), file)
    manager, configuration = managers(tiny_plans(n_channels=2))
    with pytest.raises(ValueError, match="it has four axes; expected a file per channel"):
        preprocess_case([file], None, manager, configuration, tiny_dataset(n_channels=2))


@pytest.mark.parametrize("n_files, n_channels", [(1, 2), (2, 1)])
@pytest.mark.parametrize("key", ["channel_names", "modality"])
def test_a_wrong_number_of_channels_is_refused(tmp_path, n_files, n_channels, key):
    files = write_case(tmp_path, [body(0), body(1)])[:n_files]
    manager, configuration = managers(tiny_plans(n_channels=n_channels))
    dataset = tiny_dataset("labels", n_channels)
    dataset[key] = dataset.pop("channel_names")  # of old data sets: modality
    with pytest.raises(
        ValueError, match=f"has {n_files} channels; the network was trained with {n_channels}"
    ):
        preprocess_case(files, None, manager, configuration, dataset)
    files = (files * 2)[:n_channels]
    assert len(preprocess_case(files, None, manager, configuration, dataset)[0]) == n_channels


def test_a_previous_stage_of_another_shape_is_refused(tmp_path):
    files, labels = write_case(tmp_path, [body(0)]), write_labels(tmp_path, (19, 33, 41))
    with pytest.raises(ValueError, match=r"is of shape \(20, 33, 41\), .* label map \(19, 33, 41\)"):
        preprocess_case(files, labels, *managers(tiny_plans()), tiny_dataset())


@pytest.mark.parametrize("density", [0.05, 0.4, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(12, 17, 9), (1, 17, 9), (12, 1, 1)])
def test_holes_are_filled_as_scipy_does(shape, density):
    mask = np.random.default_rng(0).random(shape) < density
    assert np.array_equal(fill_holes(mask), binary_fill_holes(mask))


def test_a_hole_within_a_hole():
    distance = np.sqrt(((np.indices((15, 15, 15)) - 7) ** 2).sum(0))
    shells = (distance.round() == 6) | (distance.round() == 2)
    filled = fill_holes(shells)
    assert np.array_equal(filled, binary_fill_holes(shells)) and filled.sum() > 2 * shells.sum()


def test_the_box_is_that_of_all_channels():
    image = np.zeros((2, 5, 6, 7), np.float32)
    image[0, 2, 3, 4], image[1, 3, 1, 6] = 1, -1
    assert find_nonzero_box(image) == (slice(2, 4), slice(1, 4), slice(4, 7))
    assert find_nonzero_box(image * 0) == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_holes_matter_only_to_masks(tmp_path, monkeypatch):
    """They are looked for where normalisation or a cascade needs them, and not otherwise."""
    files = write_case(tmp_path, [body(0)])
    monkeypatch.setattr(preprocessing, "fill_holes", lambda mask: pytest.fail("not needed"))
    check(files, None, tiny_plans())
