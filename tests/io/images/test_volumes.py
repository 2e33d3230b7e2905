"""Images are read completely or not at all, and with the values that are stored."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_files import scan, write_picture, write_volume

from nnunet_mamba.io.images import check_complete, read_image, read_picture, read_values


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_whole_file_is_read(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    write_volume(file, scan(0))
    check_complete(file)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(file)), scan(0))


@pytest.mark.parametrize("n_bytes", [1, 8, 1000])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_that_lacks_its_end_is_refused_by_name(tmp_path, ending, n_bytes):
    """ITK reads either without a word, and zeros in place of the end."""
    file = tmp_path / f"a{ending}"
    write_volume(file, scan(0))
    file.write_bytes(file.read_bytes()[:-n_bytes])
    for read in (read_image, check_complete):
        with pytest.raises(ValueError, match=rf"a{ending} cannot be read as an image"):
            read(file)


def test_a_short_file_that_was_compressed_afterwards_is_refused_with_both_sizes(tmp_path):
    """A header of 352 bytes and 960 voxels of 2 bytes are 2272."""
    file = tmp_path / "a.nii"
    write_volume(file, scan(0))
    short = tmp_path / "a.nii.gz"
    short.write_bytes(gzip.compress(file.read_bytes()[:-72]))
    with pytest.raises(ValueError, match="it holds 2200 bytes, its header says 2272"):
        read_image(short)


def test_more_than_the_header_says_is_read_as_the_header_says(tmp_path):
    file = tmp_path / "a.nii"
    write_volume(file, scan(0))
    file.write_bytes(file.read_bytes() + b"more")
    assert np.array_equal(sitk.GetArrayFromImage(read_image(file)), scan(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize("n_channels", [0, 2])
def test_values_that_are_not_finite_stay_where_they_are(tmp_path, ending, dtype, n_channels):
    """ITK alone puts zeros or worse in their place, where files are NIfTI."""
    array = np.stack([scan(0, dtype)] * n_channels) if n_channels else scan(0, dtype)
    array[..., 1, 2, 3], array[..., 4, 5, 6] = np.nan, -np.inf
    file = tmp_path / f"a{ending}"
    write_volume(file, array)
    assert np.array_equal(read_values(file), array, equal_nan=True)


def test_scaled_integers_are_read_as_floats(tmp_path):
    """Bytes 112 to 120 of a header say that values are 0.5 i + 3."""
    file = tmp_path / "a.nii"
    write_volume(file, scan(0))
    content = bytearray(file.read_bytes())
    content[112:120] = struct.pack("<2f", 0.5, 3)
    file.write_bytes(content)
    assert np.allclose(read_values(file), 0.5 * scan(0) + 3)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp"])
def test_a_picture_that_lacks_its_end_is_refused_by_name(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    write_picture(file, np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"a{ending} cannot be read as an image"):
        read_picture(file)


def test_a_file_that_is_not_there(tmp_path):
    for read, name in ((read_image, "a.nii.gz"), (read_image, "a.nii"), (read_picture, "a.png")):
        with pytest.raises(ValueError, match="does not exist"):
            read(tmp_path / name)


@pytest.mark.parametrize("ending", [".tiff", ".png", ".jpg", ".bmp"])
def test_whatever_a_damaged_picture_makes_its_reader_raise_it_is_named(tmp_path, ending):
    rng = np.random.default_rng(0)
    from skimage.io import imsave

    imsave(
        tmp_path / f"whole{ending}", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8), check_contrast=False
    )
    data = (tmp_path / f"whole{ending}").read_bytes()
    file = tmp_path / f"damaged{ending}"
    for length in (0, 4, 20, len(data) // 2):
        file.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"damaged\{ending} cannot be read as an image"):
            read_picture(file)
