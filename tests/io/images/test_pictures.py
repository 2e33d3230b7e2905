"""Pictures as grey or red, green and blue, whatever they are stored as; what is neither is refused."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from nnunet_mamba.io.images import count_picture_channels, is_plain, read_channels, read_picture

GREY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
COLOURS = np.stack([GREY, GREY + 1, GREY + 2], -1)
OPAQUE = np.full_like(GREY, 255)


def saved(folder, array, mode, ending=".png"):
    file = folder / f"picture{ending}"
    Image.fromarray(array, mode).save(file)
    return file


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize(
    ("stored", "mode", "read"),
    [
        (np.stack([GREY, OPAQUE], -1), "LA", GREY),
        (np.concatenate([COLOURS, OPAQUE[..., None]], -1), "RGBA", COLOURS),
        (np.concatenate([COLOURS, GREY[..., None]], -1), "RGBA", COLOURS),
        (GREY, "L", GREY),
        (COLOURS, "RGB", COLOURS),
    ],
)
def test_alpha_is_left_out(tmp_path, stored, mode, read, ending):
    file = saved(tmp_path, stored, mode, ending)
    assert np.array_equal(read_picture(file), read)
    assert np.array_equal(read_channels(file), stored)
    assert count_picture_channels(file) == len(mode)
    assert is_plain(file, read) == ("A" not in mode)


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
def test_inks_become_colours(tmp_path, ending):
    """Magenta and yellow ink on white paper are red; skimage hands on the four inks as they are."""
    file = tmp_path / f"red{ending}"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file)
    assert np.abs(read_picture(file).astype(int) - (255, 0, 0)).max() < 8
    assert not is_plain(file, read_picture(file))


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_one_bit_is_0_and_1(tmp_path, ending):
    file = tmp_path / f"mask{ending}"
    Image.fromarray(GREY > 100).save(file)
    assert np.array_equal(read_picture(file), GREY > 100)
    assert read_picture(file).dtype == np.uint8


def test_a_palette_is_read_as_nnunet_reads_it(tmp_path):
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    Image.fromarray(COLOURS).convert("P").save(tmp_path / "a.png")
    theirs, _ = NaturalImage2DIO().read_images([str(tmp_path / "a.png")])
    assert np.array_equal(np.moveaxis(read_picture(tmp_path / "a.png"), -1, 0), theirs[:, 0])


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((20, 30, 2), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((20, 30, 4), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((20, 30, 5), {"photometric": "rgb"}),
        ((2, 20, 30), {"photometric": "minisblack"}),
        ((2, 20, 30), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((7, 20, 30), {"photometric": "minisblack"}),
        ((2, 20, 30, 3), {"photometric": "rgb"}),
    ],
)
def test_channels_that_are_neither_colours_nor_alpha_are_refused(tmp_path, shape, options):
    """A second dye, a fourth one, a stack: none may be taken for a colour, or dropped."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), **options)
    with pytest.raises(
        ValueError, match=r"a.tif (has the shape|holds a stack).*expected grey, or red, green"
    ):
        read_picture(tmp_path / "a.tif")


def test_colours_that_are_stored_one_after_the_other_are_colours(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(COLOURS, -1, 0), photometric="rgb", planarconfig="separate"
    )
    assert np.array_equal(read_picture(tmp_path / "a.tif"), COLOURS)


def test_images_of_different_kinds_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(GREY)
        tiff.write(GREY[:5])
    with pytest.raises(ValueError, match="holds 2 images of different kinds; expected one"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("photometric", ["miniswhite", "cielab"])
def test_values_that_mean_other_colours_are_refused(tmp_path, photometric):
    array = GREY if photometric == "miniswhite" else COLOURS
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric)
    with pytest.raises(ValueError, match=rf"a.tif stores its values as {photometric.upper()}"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_palette_becomes_the_colours_that_it_stands_for(tmp_path, ending):
    quantised = Image.fromarray(COLOURS).quantize(16)
    quantised.save(tmp_path / f"a{ending}")
    assert np.array_equal(read_picture(tmp_path / f"a{ending}"), np.asarray(quantised.convert("RGB")))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_16_bits_per_colour_in_a_png_are_refused(tmp_path, n):
    """Pillow, and so nnU-Net, keeps the upper 8 without a word: 260 becomes 1."""
    write_png16(tmp_path / "a.png", np.full((4, 5, n), 260, np.uint16))
    with pytest.raises(ValueError, match="16 bits per colour, of which readers of PNG keep 8"):
        read_picture(tmp_path / "a.png")
    write_png16(tmp_path / "grey.png", np.full((4, 5, 1), 260, np.uint16))
    assert (read_picture(tmp_path / "grey.png") == 260).all()


def write_png16(file, array):
    """By hand, for no library at hand writes it: signature, IHDR, IDAT, IEND."""
    height, width, n = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[n]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("shape", [(1, 20, 30), (20, 30, 1), (1, 20, 30, 1)])
def test_axes_of_size_1_are_none(tmp_path, shape):
    tifffile.imwrite(tmp_path / "a.tif", GREY.reshape(shape), photometric="minisblack")
    assert np.array_equal(read_picture(tmp_path / "a.tif"), GREY)


class LateSeries:
    """Series of a file as tifffile has them since November 2026: read when they are asked for."""

    def __init__(self, tiff, series):
        self.tiff, self.series = tiff, series

    def __getitem__(self, k):
        if self.tiff.filehandle.closed:
            raise ValueError("seek of closed file")
        return self.series[k]

    def __len__(self):
        return len(self[:])


def test_series_are_asked_for_while_the_file_is_open(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="minisblack")
    stock = tifffile.TiffFile.series
    late = property(lambda tiff: LateSeries(tiff, list(stock.__get__(tiff))))
    monkeypatch.setattr(tifffile.TiffFile, "series", late)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), GREY)


@pytest.mark.parametrize("kept", [0, 8, 100, 0.5, 0.9])
def test_a_tiff_that_was_cut_is_refused_by_name_wherever_its_directory_is(tmp_path, kept):
    """libtiff, by which Pillow compresses, writes the directory last, tifffile first."""
    for name, write in (
        ("libtiff.tif", lambda file: Image.fromarray(COLOURS).save(file, compression="tiff_lzw")),
        ("tifffile.tif", lambda file: tifffile.imwrite(file, COLOURS)),
    ):
        write(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
        for read in (read_picture, read_channels, count_picture_channels):
            if read is count_picture_channels and name == "tifffile.tif":
                continue  # its directory may be there
            with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
                read(tmp_path / name)
