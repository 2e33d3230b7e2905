"""Label maps are written in the smallest type that holds them, where every reader sees them on the image."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from tiny_files import SHAPE, affine, blocks, scan, write_nifti, write_volume

from nnunet_mamba.io.images import label_type, read_header, read_picture, read_values, write_label_map

TURNED = affine(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([0, 1], np.uint8),
        ([0, 255], np.uint8),
        ([0, 256], np.uint16),
        ([0.0, 260.0], np.uint16),
        ([0, 65535], np.uint16),
        ([0, 65536], np.uint32),
        ([-1, 3], np.int8),
        ([-1, 200], np.int16),
        ([], np.uint8),
    ],
)
def test_the_smallest_type(labels, dtype):
    assert label_type(np.array(labels)) == dtype


@pytest.mark.parametrize("highest", [13, 260, 70000])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("image", [".nii.gz", ".mha"])
def test_no_label_changes(tmp_path, ending, highest, image):
    like, target = tmp_path / f"image{image}", tmp_path / f"label{ending}"
    write_volume(like, scan(0, np.float32))
    labels = blocks([0, 1, highest], dtype=np.int64)
    write_label_map(labels, like, target)
    assert np.array_equal(read_values(target), labels)
    assert read_values(target).dtype == label_type(labels)
    assert read_header(target).grid.difference(read_header(like).grid) is None


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_no_label_of_a_picture_changes(tmp_path, ending):
    labels = blocks([0, 1, 260], (10, 12), np.int64)
    write_label_map(labels, tmp_path / "any", tmp_path / f"a{ending}")
    from skimage.io import imread

    assert np.array_equal(imread(tmp_path / f"a{ending}"), labels)


@pytest.mark.parametrize(("name", "value"), [("a.png", 65536), ("a.bmp", 256)])
def test_a_picture_that_cannot_hold_a_label_is_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"cannot hold {value}; a file of this kind ends at {value - 1}"):
        write_label_map(np.array([[0, value]]), tmp_path / "any", tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("other", [affine(origin=(0, 0, 0)), TURNED, affine() @ np.diag((-1, 1, 1, 1))])
def test_both_forms_of_the_image_are_the_labels_too(tmp_path, other):
    like, target = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    write_nifti(like, scan(0), affine(), other)
    write_label_map(blocks([0, 1]), like, target)
    for reader in ("SimpleITKIO", "NibabelIO"):
        assert read_header(target, reader).grid == read_header(like, reader).grid
    assert np.allclose(nibabel.load(target).get_qform(), affine(), atol=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(target))), blocks([0, 1]))


def test_what_scaled_an_image_does_not_scale_labels(tmp_path):
    like, target = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    write_volume(like, scan(0))
    image = nibabel.load(like)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), like)
    write_label_map(blocks([0, 1, 2]), like, target)
    assert np.array_equal(read_values(target), blocks([0, 1, 2]))


def test_a_label_of_one_channel_of_a_4d_image(tmp_path):
    for ending in (".nii.gz", ".mha"):
        like, target = tmp_path / f"image{ending}", tmp_path / f"label{ending}"
        write_volume(like, np.stack([scan(0), scan(1)]))
        write_label_map(blocks([0, 1]), like, target)
        assert read_values(target).shape == SHAPE
        assert read_header(target).grid.difference(read_header(like).grid.first_channel()) is None


def test_a_picture_is_not_read_for_its_header(tmp_path):
    write_label_map(blocks([0, 2], (10, 12)), tmp_path / "is not there.png", tmp_path / "b.png")
    assert np.array_equal(read_picture(tmp_path / "b.png"), blocks([0, 2], (10, 12)))
