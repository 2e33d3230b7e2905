"""Pictures of a few pixels, with answers worked out by hand; alpha, inks and second dyes in a release."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from releases import BUILDERS, keep_three_videos
from skimage.io import imread
from tiny_files import PICTURE, disc, photograph, write_picture

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets.pictures import (
    read_instruments,
    read_interior_and_boundary,
    read_microscopy,
    resize_picture,
    to_three_channels,
)

OPAQUE = np.full(PICTURE, 255, np.uint8)
SKIN_IMAGE = "ISIC2018_Task1-2_Training_Input/ISIC_0000003.jpg"
SKIN_LABEL = "ISIC2018_Task1_Training_GroundTruth/ISIC_0000003_segmentation.png"


def test_grey_is_three_times_the_same_and_colours_stay():
    assert to_three_channels(np.array([[7, 8]])).tolist() == [[[7, 7, 7], [8, 8, 8]]]
    assert to_three_channels(np.arange(3)[None, None]).tolist() == [[[0, 1, 2]]]


def test_contrast_is_stretched_from_the_first_to_the_99th_percentile_of_what_is_not_zero(tmp_path):
    """Of 100, 200, ... 10100 these are 200 and 10000, however many zeros there are."""
    ramp = np.arange(1, 102, dtype=np.uint16) * 100
    write_picture(tmp_path / "ramp.tif", np.concatenate([np.zeros(99, np.uint16), ramp]).reshape(2, 100))
    stretched = read_microscopy(tmp_path / "ramp.tif")[..., 0].ravel()[99:]
    assert stretched.tolist() == [int(np.clip((v - 200) / 9800, 0, 1) * 255) for v in ramp.tolist()]
    assert (stretched[:3].tolist(), stretched[50], stretched[-3:].tolist()) == (
        [0, 0, 2],
        127,
        [252, 255, 255],
    )


@pytest.mark.parametrize(("width", "n_interior"), [(8, 16), (7, 0)])
def test_an_interior_of_16_pixels_is_kept_and_a_smaller_one_dropped(tmp_path, width, n_interior):
    """Of a cell of 8 x 8 pixels the inner 4 x 4 are interior; of 8 x 7 they are 4 x 3."""
    cell = np.zeros((14, 14), np.uint16)
    cell[3:11, 3 : 3 + width] = 5
    write_picture(tmp_path / "cell.tif", cell)
    label = read_interior_and_boundary([tmp_path / "cell.tif"])
    assert (label == 1).sum() == n_interior
    assert (label == 2).sum() == 10 * (width + 2) - 4 - 4 * (width - 4)  # in and out of the edge


def test_pieces_of_an_interior_that_touch_at_corners_are_counted_apart(tmp_path):
    """Of two plates of 7 x 8 that overlap in 2 x 2 the interior is a chain of 12, 1, 1 and 12 pixels."""
    cell = np.zeros((16, 18), np.uint16)
    cell[2:9, 2:10] = cell[7:14, 8:16] = 1
    write_picture(tmp_path / "cell.tif", cell)
    assert not (read_interior_and_boundary([tmp_path / "cell.tif"]) == 1).any()


def test_where_tools_overlap_the_later_name_wins(tmp_path):
    masks = {"Right_Vessel_Sealer": [0, 0, 9], "Left_Bipolar_Forceps": [0, 9, 9]}
    files = [tmp_path / tool / "frame.png" for tool in masks]
    for file, mask in zip(files, masks.values(), strict=True):
        write_picture(file, np.array([mask], np.uint8))
    for given in (files, files[::-1]):
        assert read_instruments(given).tolist() == [[0, 1, 4]]


def test_resized_labels_are_those_of_the_nearest_pixel_and_pictures_are_rounded():
    """Between 0 and 2 there is no label 1. Of 0 and 3 a width of 4 makes 3/4, 3/4, 9/4, 9/4."""
    labels = np.array([[0, 2]], np.uint8)
    assert resize_picture(labels, (1, 6), labels=True).tolist() == [[0, 0, 0, 2, 2, 2]]
    assert resize_picture(np.array([[0, 3]], np.uint8), (1, 4), labels=False).tolist() == [[1, 1, 2, 2]]


def test_stripes_finer_than_the_pixels_of_a_smaller_picture_become_grey():
    """Labels do not: there every third pixel is taken, of which each second one is in a stripe."""
    stripes = np.tile(np.array([0, 200], np.uint8), (3, 15))
    assert abs(resize_picture(stripes, (1, 10), labels=False)[:, 2:-2].astype(int) - 100).max() < 30
    assert resize_picture(stripes, (1, 10), labels=True).tolist() == [[200, 0] * 5]


@pytest.fixture
def convert(tmp_path):
    """Return a function that converts a release with one file replaced, and returns the dataset's folder."""

    def run(name, file, write, code=0):
        sources = BUILDERS[name](tmp_path / "release")
        write(tmp_path / "release" / file)
        assert main(["convert", name, *map(str, sources), "--raw", str(tmp_path / "raw")]) == code
        return next((tmp_path / "raw").glob("Dataset*"), None)

    return run


def save(array, mode):
    return lambda file: Image.fromarray(array, mode).save(file)


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (np.stack([disc(), OPAQUE], -1), "LA"),
        (np.stack([disc()] * 3 + [OPAQUE], -1), "RGBA"),
        (np.stack([disc()] * 3, -1), "RGB"),
        (disc(), "L"),
        (disc(1), "L"),
    ],
)
def test_a_mask_is_what_one_sees(convert, array, mode):
    folder = convert("isic18", SKIN_LABEL, save(array, mode))
    assert np.array_equal(imread(folder / "labelsTr" / "ISIC_0000003.png"), disc(1))


def test_a_mask_of_one_bit(convert):
    folder = convert("isic18", SKIN_LABEL, lambda file: Image.fromarray(disc() > 0).save(file))
    assert np.array_equal(imread(folder / "labelsTr" / "ISIC_0000003.png"), disc(1))


def test_a_red_photograph_in_inks_is_red(convert):
    folder = convert("isic18", SKIN_IMAGE, Image.new("CMYK", PICTURE[::-1], (0, 255, 255, 0)).save)
    assert np.abs(imread(folder / "imagesTr" / "ISIC_0000003_0000.png").astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_masks_of_tools_do_not_label_the_whole_frame(convert, mode, tmp_path):
    BUILDERS["endovis17"](tmp_path / "again")
    (mask,) = {
        file.relative_to(tmp_path / "again")
        for file in (tmp_path / "again").rglob("ground_truth/*/frame000.png")
        if "instrument_dataset_1/" in file.as_posix() and "Left_Prograsp" in file.as_posix()
    }
    before = imread(tmp_path / "again" / mask)
    stored = np.stack([before] * (len(mode) - 1) + [np.full_like(before, 255)], -1)

    def write(file):
        keep_three_videos(tmp_path / "release")
        save(stored, mode)(file)

    whole = convert("endovis17", mask, write)
    labels = imread(whole / "labelsTr" / "video1_frame000.png")
    assert (labels == 0).any() and (labels > 0).any()


@pytest.mark.parametrize("shape", [(*PICTURE, 2), (2, *PICTURE), (*PICTURE, 4)])
def test_a_micrograph_of_other_dyes_is_a_fault_by_name(convert, shape, capsys):
    def write(file):
        tifffile.imwrite(
            file,
            photograph(0, shape),
            photometric="minisblack",
            planarconfig="contig" if shape[0] > 2 else None,
        )

    convert("cellseg", "Training-labeled/images/cell_00003.tif", write, code=1)
    assert "cell_00003.tif" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_micrograph_that_is_not_finite_is_a_fault(convert, value, capsys):
    picture = photograph(0, PICTURE, np.float32)
    picture[3, 4] = value
    convert(
        "cellseg",
        "Training-labeled/images/cell_00003.tif",
        lambda file: tifffile.imwrite(file, picture),
        code=1,
    )
    assert "cell_00003.tif holds values that are NaN or infinite" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, 0.5, -1])
def test_cells_that_are_not_numbered_are_a_fault(convert, value, capsys):
    cells = disc(3).astype(np.float32)
    cells[0, 0] = value
    convert(
        "cellseg",
        "Training-labeled/labels/cell_00003_label.tiff",
        lambda file: tifffile.imwrite(file, cells),
        code=1,
    )
    assert "cell_00003_label.tiff" in capsys.readouterr().err


def test_a_constant_channel_of_16_bits_does_not_wrap(tmp_path):
    """300 is 44 modulo 256."""
    tifffile.imwrite(tmp_path / "a.tif", np.full(PICTURE, 300, np.uint16))
    assert (read_microscopy(tmp_path / "a.tif") == 255).all()
