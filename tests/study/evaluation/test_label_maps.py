"""Grids as nnU-Net's reader sees them, and the spacing of volumes whose files do not tell it."""

import json
import struct

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from tiny_files import affine, blocks, write_nifti

from nnunet_mamba.cli import main
from nnunet_mamba.study.evaluation import read_table
from nnunet_mamba.study.evaluation.label_maps import read_label_map

READERS = (SimpleITKIO, NibabelIO, NibabelIOWithReorient)
FORMS = {
    "turned": affine(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)),
    "flipped": affine() @ np.diag((-1, 1, 1, 1)),
    "moved": affine(origin=(0, 0, 0)),
    "of voxels of another size": affine(spacing=(1.6, 1.8, 5.0)),
}


@pytest.fixture
def folders(tmp_path):
    for name in ("pred", "ref"):
        (tmp_path / name).mkdir()
    return tmp_path / "pred", tmp_path / "ref"


def describe(folder, ending, reader=None):
    content = {"labels": {"background": 0, "organ": 1}, "file_ending": ending}
    content |= {} if reader is None else {"overwrite_image_reader_writer": reader.__name__}
    (folder / "dataset.json").write_text(json.dumps(content))


def evaluate(folders, *words) -> int:
    return main(["evaluate", *map(str, folders), *map(str, words), "-j", "1"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_nnunets_own_prediction_is_on_the_grid_of_an_odd_reference(folders, reader, form):
    """The reference has the image's header, whose sform and qform differ; nnU-Net's writers keep one."""
    write_nifti(folders[1] / "a.nii.gz", blocks([0, 1]), affine(), FORMS[form])
    values, properties = reader().read_seg(str(folders[1] / "a.nii.gz"))
    reader().write_seg(values[0].astype(np.uint8), str(folders[0] / "a.nii.gz"), properties)
    describe(folders[1], ".nii.gz", reader)
    out = folders[0].parent / "scores.csv"
    assert evaluate(folders, "--metrics", "dice", "--out", out) == 0
    assert [row.value for row in read_table(out)] == [1.0]


def test_what_differs_for_the_reader_is_refused(folders, capsys):
    """One grid for ITK, two for nibabel."""
    write_nifti(folders[1] / "a.nii.gz", blocks([0, 1]), affine(), FORMS["turned"])
    write_nifti(folders[0] / "a.nii.gz", blocks([0, 1]), affine(), affine())
    describe(folders[1], ".nii.gz", NibabelIO)
    assert evaluate(folders) == 2
    assert "differ in direction" in capsys.readouterr().err
    describe(folders[1], ".nii.gz", SimpleITKIO)
    assert evaluate(folders, "--metrics", "dice") == 0


def stack(start: int, n_slices: int = 8) -> np.ndarray:
    array = np.zeros((n_slices, 8, 8), np.uint8)
    array[start, 3:5, 3:5] = 1
    return array


def put(folder, name, array, spacing=None, ending=".tif"):
    tifffile.imwrite(folder / f"{name}{ending}", array)
    if spacing is not None:
        (folder / f"{name}.json").write_text(json.dumps({"spacing": spacing}))


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
@pytest.mark.parametrize("told", [("pred", "ref"), ("ref",), ("pred",)])
def test_the_spacing_of_a_tiff_volume_is_in_the_file_beside_it(folders, ending, told):
    """Two slices of 5 mm apart: 10 mm. Where one of the two files has the spacing, it holds for both."""
    for folder, start in zip(folders, (2, 4), strict=True):
        put(folder, "a", stack(start), [5, 1, 1] if folder.name in told else None, ending)
    describe(folders[1], ending, Tiff3DIO)
    out = folders[0].parent / "scores.csv"
    assert evaluate(folders, "--metrics", "hd95", "hd100", "dice", "--out", out) == 0
    assert [row.value for row in read_table(out)] == [10.0, 10.0, 0.0]


def test_without_a_spacing_lengths_are_refused_and_the_rest_is_not(folders, capsys):
    for folder, start in zip(folders, (2, 4), strict=True):
        put(folder, "a", stack(start))
    assert evaluate(folders) == 2
    message = capsys.readouterr().err
    assert "a.json with its spacing is not beside it" in message and "--spacing Z Y X" in message
    assert "nsd, hd95 cannot be computed" in message
    assert evaluate(folders, "--protocol", "brats-lesionwise", "--metrics", "dice") == 2
    assert evaluate(folders, "--metrics", "dice") == 0
    assert evaluate(folders, "--protocol", "nnformer") == 0  # in voxels, whatever their size
    out = folders[0].parent / "scores.csv"
    assert evaluate(folders, "--metrics", "hd95", "--spacing", 5, 1, 1, "--out", out) == 0
    assert [row.value for row in read_table(out)] == [10.0]


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ([5, 1], "has 3 axes, but --spacing has 2 numbers"),
        ([5, 1, 0], "Spacings are above 0 mm"),
        (["inf", 1, 1], "Spacings are above 0 mm"),
    ],
)
def test_a_spacing_that_cannot_be_is_refused(folders, spacing, message, capsys):
    for folder in folders:
        put(folder, "a", stack(2))
    assert evaluate(folders, "--spacing", *spacing) == 2
    assert message in capsys.readouterr().err


def test_a_spacing_for_files_that_tell_theirs_is_refused(folders, capsys):
    for folder in folders:
        put(folder, "a", stack(2), [5, 1, 1])
    assert evaluate(folders, "--spacing", 5, 1, 1) == 2
    assert "stated in a file beside it; leave out --spacing" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[1, 2, 3]", '{"spacing": [1, 2]}', '{"spacing": [0, 1, 1]}', "{"])
def test_a_file_that_tells_no_spacing_is_refused_by_name(tmp_path, content):
    put(tmp_path, "a", stack(2))
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a.json (is not a valid spacing file of a.tif|has the spacing)"):
        read_label_map(tmp_path / "a.tif")


def test_spacings_that_differ_are_refused(folders, capsys):
    put(folders[0], "a", stack(2), [5, 1, 1])
    put(folders[1], "a", stack(2), [4, 1, 1])
    assert evaluate(folders) == 2
    assert "differ in spacing: (1, 1, 5) against (1, 1, 4)" in capsys.readouterr().err


@pytest.mark.parametrize("n_slices", [1, 2, 3, 4, 8])
def test_nnunets_own_prediction_is_read_as_it_was_written(tmp_path, n_slices):
    """tifffile stores three or four slices as if they were colours."""
    array = stack(0, n_slices)
    Tiff3DIO().write_seg(array, str(tmp_path / "a.tif"), {"spacing": [5, 1, 1]})
    read = read_label_map(tmp_path / "a.tif")
    assert np.array_equal(read.array, array)
    assert read.spacing_mm == (5, 1, 1)


def test_pixels_have_the_size_one_says(folders):
    """Two pixels apart: 2, or 3 mm."""
    from skimage.io import imsave

    for folder, row in zip(folders, (2, 4), strict=True):
        array = np.zeros((8, 8), np.uint8)
        array[row, 3] = 1
        imsave(folder / "a.png", array, check_contrast=False)
    out = folders[0].parent / "scores.csv"
    for words, value in (((), 2.0), (("--spacing", 1.5, 1.5), 3.0)):
        assert evaluate(folders, "--metrics", "hd95", *words, "--out", out) == 0
        assert [row.value for row in read_table(out)] == [value]


def test_nnunets_placeholder_is_no_spacing(folders, capsys):
    """Of images without CASE.json it writes 1 x 1 x 1 beside its predictions: 2.0 instead of 10.0."""
    array = stack(4)
    put(folders[1], "a", array)
    put(folders[0], "a", stack(2))
    _, properties = Tiff3DIO().read_seg(str(folders[1] / "a.tif"))
    Tiff3DIO().write_seg(stack(2), str(folders[0] / "a.tif"), properties)
    assert json.loads((folders[0] / "a.json").read_text()) == {"spacing": [1, 1, 1]}
    assert evaluate(folders, "--metrics", "hd95") == 2
    assert "a.json with its spacing is not beside it" in capsys.readouterr().err
    out = folders[0].parent / "scores.csv"
    assert evaluate(folders, "--metrics", "hd95", "--spacing", 5, 1, 1, "--out", out) == 0
    assert [row.value for row in read_table(out)] == [10.0]
    put(folders[1], "a", array, [5, 1, 1])
    assert evaluate(folders, "--metrics", "hd95", "--out", out) == 0
    assert [row.value for row in read_table(out)] == [10.0]


@pytest.mark.parametrize("form", [*FORMS.values(), affine(spacing=(1, 1, 1))])
def test_a_header_that_contradicts_itself_is_refused_where_no_reader_is_known(folders, form, capsys):
    for folder in folders:
        write_nifti(folder / "a.nii.gz", blocks([0, 1]), affine(), form)
    assert evaluate(folders, "--metrics", "dice") == 2
    message = capsys.readouterr().err
    assert "a.nii.gz contradicts itself" in message and "--dataset-json" in message
    describe(folders[1], ".nii.gz")
    assert evaluate(folders, "--metrics", "dice") == 0


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_a_reference_stored_from_the_other_end_lies_on_the_prediction(folders, reader):
    """Its reader turns both alike, and writes the prediction as the image was stored."""
    mask = blocks([0, 1, 1, 0, 1])
    other_end = affine() @ np.array([[-1, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_nifti(folders[0] / "a.nii.gz", mask, affine(), affine())
    write_nifti(folders[1] / "a.nii.gz", mask[..., ::-1], other_end, other_end)
    content = {"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    content["overwrite_image_reader_writer"] = reader
    (folders[1] / "dataset.json").write_text(json.dumps(content))
    out = folders[0].parent / "scores.csv"
    assert evaluate(folders, "--metrics", "dice", "--out", out) == 0
    assert [row.value for row in read_table(out)] == [1.0]
    describe(folders[1], ".nii.gz", SimpleITKIO)
    assert evaluate(folders, "--metrics", "dice") == 2


def test_labels_that_a_header_scales_are_rounded_as_nnunet_rounds_them(tmp_path):
    """Stored as 10 and 20, with a tenth of the scale at bytes 112 to 116: 2.0000000298."""
    file = tmp_path / "a.nii"
    write_nifti(file, blocks([0, 10, 20]), affine(), affine())
    content = bytearray(file.read_bytes())
    content[112:120] = struct.pack("<2f", 0.1, 0)
    file.write_bytes(content)
    assert np.array_equal(read_label_map(file).array, blocks([0, 1, 2]))
