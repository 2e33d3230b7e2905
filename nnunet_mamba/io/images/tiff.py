"""TIFF files: pictures with colours, or volumes, whose spacing nnU-Net keeps in a JSON file beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mamba.io.images.integrity import read_or_raise

ALPHA = (1, 2)  # of TIFF's tag ExtraSamples: associated, unassociated
BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 1, 2, 3, 5, 6  # of its tag PhotometricInterpretation
JPEGS = (6, 7)  # of its tag Compression; their YCbCr is decoded to red, green and blue


def is_tiff(file: Path) -> bool:
    return Path(file).suffix.lower() in (".tif", ".tiff")


def read_tiff(file: Path) -> tuple[np.ndarray, str]:
    """Read all pages, and name the axes of the array: Y, X, S for colours, any other letter for pages."""
    series, page = _parts(file)
    if len(series) > 1:
        raise ValueError(f"{file} holds {len(series)} images of different kinds; expected one.")
    is_decoded = page.photometric == YCBCR and page.compression in JPEGS
    if page.photometric not in (BLACK_IS_ZERO, RGB, PALETTE, SEPARATED) and not is_decoded:
        raise ValueError(
            f"{file} stores its values as {page.photometric.name}, of which programs read other numbers than "
            "eyes see; save it as grey with black as 0, or as RGB."
        )
    import tifffile

    return read_or_raise(file, lambda: tifffile.imread(file)), series[0].axes


def read_tiff_colours(file: Path) -> tuple[int, bool, bool]:
    """Return samples per pixel, whether the last of them is alpha, and whether they stand for other colours:
    inks, or numbers of a palette."""
    _, page = _parts(file)
    extra = tuple(int(kind) for kind in page.extrasamples)
    has_alpha = len(extra) == 1 and extra[0] in ALPHA
    return page.samplesperpixel, has_alpha, page.photometric in (SEPARATED, PALETTE)


def read_tiff_shape(file: Path) -> tuple[int, ...]:
    """Return the shape in which readers of TIFF, and so nnU-Net, give the first image, without reading it."""
    return tuple(_parts(file)[0][0].shape)


def _parts(file: Path) -> tuple[list[Any], Any]:
    """Return the kinds of content of the file, and its first page; their pixels are not read."""
    import tifffile

    def parts() -> tuple[list[Any], Any]:
        with tifffile.TiffFile(file) as tiff:
            return list(tiff.series), tiff.pages.first  # newer tifffile reads a series when it is asked for

    return read_or_raise(file, parts)


def get_spacing_file(file: Path, *, is_image: bool = False) -> Path:
    """Return the file in which nnU-Net looks for the spacing of a volume: CASE.json, of CASE.tif or an
    image's CASE_0000.tif."""
    case = re.sub(r"_\d{4}$", "", file.stem) if is_image else file.stem
    return file.with_name(f"{case}.json")


def read_tiff_spacing(file: Path) -> tuple[float, ...] | None:
    """Return the spacing (z, y, x) in mm of a label map, None where no file tells it."""
    beside = get_spacing_file(file)
    if not beside.is_file():
        return None
    try:
        spacing = tuple(float(mm) for mm in json.loads(beside.read_text(encoding="utf-8"))["spacing"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{beside} is not a valid spacing file of {file.name} ({error!r}); "
            'expected {"spacing": [z, y, x]}.'
        ) from error
    if len(spacing) != 3 or not all(0 < mm < float("inf") for mm in spacing):
        raise ValueError(
            f"{beside} has the spacing {list(spacing)}; expected three positive numbers of mm, z, y, x."
        )
    return spacing
