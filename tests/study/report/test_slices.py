import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure

from nnunet_mamba.study.evaluation import Label
from nnunet_mamba.study.report.predicted_cases import CaseFiles
from nnunet_mamba.study.report.slices import (
    cut_slices,
    draw_outline,
    find_fullest_index,
    read_volume,
)

LABELS = (Label("large", (1,)), Label("small", (2,)))


def write_case(folder, array, spacing=(1.0, 2.0, 3.0), direction=None) -> CaseFiles:
    files = CaseFiles("a", *(folder / f"{kind}.nii.gz" for kind in ("image", "reference", "prediction")))
    for file in (files.image, files.reference, files.prediction):
        image = sitk.GetImageFromArray(array.astype(np.int16))
        image.SetSpacing(spacing)
        if direction:
            image.SetDirection(direction)
        sitk.WriteImage(image, str(file))
    return files


def labelled(shape=(10, 12, 40)) -> np.ndarray:
    array = np.zeros(shape)
    array[2:8, 3:9, 15:25] = 1
    array[7, 4, 16] = 2
    return array


def test_planes_have_their_own_pixel_sizes(tmp_path):
    slices = cut_slices(read_volume(write_case(tmp_path, labelled())), LABELS)
    assert [(s.plane, s.pixel_mm) for s in slices] == [
        ("axial", (2.0, 1.0)),  # y, x
        ("coronal", (3.0, 1.0)),  # z, x
        ("sagittal", (3.0, 2.0)),  # z, y
    ]


def test_the_image_is_cropped_to_10_mm_around_the_labels(tmp_path):
    volume = read_volume(write_case(tmp_path, labelled()))
    assert volume.image.shape == (10, 12, 10 + 20)  # 3 voxels of 3 mm and 5 of 2 mm reach beyond the image


def test_a_small_label_counts_as_much_as_a_large_one():
    assert find_fullest_index(labelled(), LABELS, axis=0) == 7


def test_without_labels_the_middle_is_shown():
    assert find_fullest_index(np.zeros((9, 4, 4)), LABELS, axis=0) == 4


def test_the_head_is_up(tmp_path):
    """The small label lies in slice 7 of 10, near the top of the patient."""
    coronal = cut_slices(read_volume(write_case(tmp_path, labelled())), LABELS)[1]
    rows = np.nonzero(coronal.reference == 2)[0]
    assert rows.tolist() == [10 - 1 - 7]


def test_a_volume_stored_the_other_way_round_looks_the_same(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    plain = cut_slices(read_volume(write_case(tmp_path / "a", labelled())), LABELS)
    mirrored = write_case(tmp_path / "b", labelled()[:, ::-1, ::-1], direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for expected, shown in zip(plain, cut_slices(read_volume(mirrored), LABELS), strict=True):
        np.testing.assert_array_equal(shown.reference, expected.reference)


def test_a_2d_image_has_one_plane(tmp_path):
    slices = cut_slices(read_volume(write_case(tmp_path, labelled()[7], spacing=(0.5, 0.75))), LABELS)
    assert [(s.plane, s.pixel_mm) for s in slices] == [("axial", (0.75, 0.5))]


def test_a_picture_in_colour_is_shown_in_grey(tmp_path):
    files = write_case(tmp_path, labelled()[7])
    colours = np.stack([labelled()[7] * k for k in (30, 60, 90)], -1).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(files.image))
    (shown,) = cut_slices(read_volume(files), LABELS)
    assert sorted(np.unique(shown.image)) == [0, 60, 120]


def test_an_outline_follows_the_edges_of_the_voxels():
    axes = Figure().add_subplot()
    mask = np.zeros((6, 6), bool)
    mask[2:4, 1:5] = True  # edges at rows 1.5 and 3.5, columns 0.5 and 4.5
    draw_outline(axes, mask, "red", 1.0)
    points = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert points.min(0) == pytest.approx((0.5, 1.5), abs=0.07)
    assert points.max(0) == pytest.approx((4.5, 3.5), abs=0.07)


def test_headers_that_place_voxels_twice_are_read_as_the_images(tmp_path):
    """nnU-Net's writer by nibabel keeps the sform alone, which is flipped against the image's qform."""
    files = write_case(tmp_path, labelled())
    plain = cut_slices(read_volume(files), LABELS)
    nii = nibabel.load(files.image)
    flipped = nii.affine @ np.diag((-1, 1, 1, 1))
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(nibabel.load(files.prediction).dataobj), flipped), files.prediction
    )
    for expected, shown in zip(plain, cut_slices(read_volume(files), LABELS), strict=True):
        np.testing.assert_array_equal(shown.prediction, expected.prediction)


def test_a_map_stored_from_the_other_end_lies_on_the_image(tmp_path):
    files = write_case(tmp_path, labelled())
    plain = cut_slices(read_volume(files), LABELS)
    for file in (files.reference, files.prediction):
        sitk.WriteImage(sitk.Flip(sitk.ReadImage(str(file)), (True, False, False)), str(file))
    for expected, shown in zip(plain, cut_slices(read_volume(files), LABELS), strict=True):
        np.testing.assert_array_equal(shown.reference, expected.reference)
