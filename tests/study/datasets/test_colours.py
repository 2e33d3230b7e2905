"""Pictures of releases with alpha, inks, second dyes: what nnU-Net reads is what one sees, or a refusal."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from releases import BUILDERS
from skimage.io import imread
from tiny_files import PICTURE, disc, photograph

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets.pictures import microscopy

OPAQUE = np.full(PICTURE, 255, np.uint8)
SKIN_IMAGE = "ISIC2018_Task1-2_Training_Input/ISIC_0000003.jpg"
SKIN_LABEL = "ISIC2018_Task1_Training_GroundTruth/ISIC_0000003_segmentation.png"


@pytest.fixture
def convert(tmp_path):
    """A function: convert a release of which one file was replaced, and return the dataset's folder."""

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
    whole = convert("endovis17", mask, save(stored, mode))
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
    assert (microscopy(tmp_path / "a.tif") == 255).all()
