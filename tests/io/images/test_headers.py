"""NIfTI headers that say twice where the voxels are: what each of nnU-Net's readers makes of them."""

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation
from tiny_files import DIRECTION, ORIGIN_MM, SPACING_MM, affine, scan, write_nifti, write_volume

from nnunet_mamba.io.images import find_header_contradiction, get_reader_name, read_header

SHEARED = affine()
SHEARED[0, 1] += 0.3
OTHERS = {
    "turned": affine(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)),
    "flipped": affine() @ np.diag((-1, 1, 1, 1)),
    "sheared": SHEARED,
    "moved": affine(origin=(0, 0, 0)),
    "scaled": affine(spacing=(1.6, 1.8, 5.0)),
}


@pytest.mark.parametrize("code", [1, 2, 4])
@pytest.mark.parametrize("other", OTHERS)
def test_forms_that_differ_are_a_contradiction(tmp_path, other, code):
    file = tmp_path / "a.nii.gz"
    write_nifti(file, scan(0), affine(), OTHERS[other], code)
    assert "sform differ in" in find_header_contradiction(file)


@pytest.mark.parametrize("forms", [(affine(), affine()), (affine(), None), (None, affine()), (None, None)])
def test_forms_that_agree_or_are_alone_are_none(tmp_path, forms):
    file = tmp_path / "a.nii.gz"
    write_nifti(file, scan(0), *forms)
    assert find_header_contradiction(file) is None
    write_volume(file, scan(0))
    assert find_header_contradiction(file) is None


def test_pixdim_against_a_sform_that_is_alone(tmp_path):
    file = tmp_path / "a.nii.gz"
    write_nifti(file, scan(0), None, OTHERS["scaled"])
    assert find_header_contradiction(file) == (
        "its pixdim and sform differ in spacing: (0.8, 0.9, 2.5) against (1.6, 1.8, 5)"
    )


def test_rounding_is_no_contradiction(tmp_path):
    """float32 keeps seven digits; quaternions near half a turn lose half of them."""
    for angle in (0.0, 1e-4, 0.3, np.pi - 1e-3, np.pi):
        c, s = np.cos(angle), np.sin(angle)
        grid = affine(direction=(c, -s, 0, s, c, 0, 0, 0, 1), origin=(-312.123456, 201.7, -1500.3))
        file = tmp_path / "a.nii.gz"
        write_nifti(file, scan(0), grid, grid)
        assert find_header_contradiction(file) is None, angle


@pytest.mark.parametrize("other", ["turned", "moved", "flipped"])
def test_the_grid_is_that_of_nnunets_reader(tmp_path, other):
    """Against the readers themselves: an affine of nibabel, origin and direction of ITK."""
    file = tmp_path / "a.nii.gz"
    write_nifti(file, scan(0), affine(), OTHERS[other])
    theirs = NibabelIO().read_images([str(file)])[1]["nibabel_stuff"]["original_affine"]
    ours = read_header(file, "NibabelIO").grid
    directed = np.reshape(ours.direction, (3, 3)) * ours.spacing
    assert np.allclose(np.diag((-1, -1, 1)) @ directed, theirs[:3, :3], atol=1e-6)
    assert np.allclose(np.multiply(ours.origin, (-1, -1, 1)), theirs[:3, 3], atol=1e-5)
    itk = SimpleITKIO().read_images([str(file)])[1]["sitk_stuff"]
    ours = read_header(file, "SimpleITKIO").grid
    assert (ours.spacing, ours.origin, ours.direction) == (itk["spacing"], itk["origin"], itk["direction"])


def test_without_a_reader_it_is_nnunets_choice_by_the_ending(tmp_path):
    for ending, reader in ((".nii", "NibabelIO"), (".nii.gz", "SimpleITKIO")):
        file = tmp_path / f"a{ending}"
        write_nifti(file, scan(0), affine(), OTHERS["turned"])
        assert get_reader_name({"file_ending": ending}) == reader
        assert read_header(file) == read_header(file, reader)
    assert read_header(tmp_path / "a.nii") != read_header(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".bmp", ".tif", ".tiff"])
def test_the_reader_of_an_ending_is_the_one_nnunet_takes(ending):
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    for named in ({}, {"overwrite_image_reader_writer": "NibabelIOWithReorient"}):
        description = {"file_ending": ending, **named}
        theirs = determine_reader_writer_from_dataset_json(description, verbose=False)
        assert get_reader_name(description) == theirs.__name__


def test_a_header_that_itk_refuses_says_what_to_do(tmp_path):
    """Axes that are not at right angles; nibabel reads them."""
    file = tmp_path / "a.nii.gz"
    write_nifti(file, scan(0), None, SHEARED)
    with pytest.raises(ValueError, match=r'pixdim and sform differ .* Write it anew, or .*"NibabelIO"'):
        read_header(file, "SimpleITKIO")
    assert read_header(file, "NibabelIO").grid.size == (12, 10, 8)


def test_a_volume_of_itk_is_the_same_for_both_readers(tmp_path):
    file = tmp_path / "a.nii.gz"
    write_volume(file, scan(0))
    by_itk, by_nibabel = (read_header(file, reader).grid for reader in ("SimpleITKIO", "NibabelIO"))
    assert by_itk.difference(by_nibabel) is None
    assert np.allclose(by_nibabel.direction, DIRECTION, atol=1e-6)
    assert np.allclose(by_nibabel.origin, ORIGIN_MM) and np.allclose(by_nibabel.spacing, SPACING_MM)


@pytest.mark.parametrize(
    ("dtype", "n"), [(np.complex64, 2), ([("R", "u1"), ("G", "u1"), ("B", "u1")], 3), (np.int16, 1)]
)
def test_values_per_voxel_are_counted(tmp_path, dtype, n):
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), dtype), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_header(tmp_path / "a.nii.gz").n_components == n


def test_a_vector_is_several_values_per_voxel(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5, 1, 3), np.float32), np.eye(4))
    image.header.set_intent("vector")
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert read_header(tmp_path / "a.nii.gz").n_components == 3


@pytest.mark.parametrize("seed", range(20))
def test_no_file_of_itk_contradicts_itself(tmp_path, seed):
    """Near LPS, a turn by half a circle, float32 quaternions lose up to 0.0013 of a cosine."""
    rng = np.random.default_rng(seed)
    for tilt in (1e-4, 1e-3, 1e-2, 0.1):
        turn = Rotation.from_rotvec(rng.normal(size=3) * tilt).as_matrix()
        file = tmp_path / "a.nii.gz"
        for flip in (np.eye(3), np.diag((-1, -1, 1))):
            write_volume(file, scan(0), direction=tuple((turn @ flip).ravel()))
            assert find_header_contradiction(file) is None


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_last_axis_of_size_1_is_none(tmp_path, reader):
    image = nibabel.Nifti1Image(scan(0).T[..., None], affine())
    nibabel.save(image, tmp_path / "a.nii.gz")
    write_nifti(tmp_path / "b.nii.gz", scan(0), affine(), affine())
    one, other = (read_header(tmp_path / f"{name}.nii.gz", reader) for name in "ab")
    assert one.grid.difference(other.grid) is None
    assert (one.n_axes, other.n_axes) == (4, 3)


def test_nifti_2_is_for_nibabel(tmp_path):
    nibabel.save(nibabel.Nifti2Image(scan(0).T, affine()), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="it is of NIfTI-2"):
        read_header(tmp_path / "a.nii.gz", "SimpleITKIO")
    assert read_header(tmp_path / "a.nii.gz", "NibabelIO").grid.size == (12, 10, 8)


def test_nibabels_spacing_is_pixdim_and_its_grid_the_affine(tmp_path):
    """nnU-Net takes the first for its networks, and writes predictions by the second alone."""
    write_nifti(tmp_path / "a.nii.gz", scan(0), affine(), OTHERS["scaled"])
    header = read_header(tmp_path / "a.nii.gz", "NibabelIO")
    assert np.allclose(header.spacing, SPACING_MM) and np.allclose(header.grid.spacing, (1.6, 1.8, 5.0))
