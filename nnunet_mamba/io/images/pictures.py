"""Pictures (PNG, JPEG, BMP and TIFF) as grey values or red, green and blue, however they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_mamba.io.images.integrity import read_or_raise
from nnunet_mamba.io.images.tiff import is_tiff, read_tiff, read_tiff_colours, read_tiff_shape

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")  # of Pillow's modes
EXPECTED = "expected grey, or red, green and blue, either with or without alpha"


def is_picture(file: Path) -> bool:
    return Path(file).suffix.lower() in ENDINGS


def read_picture(file: Path) -> np.ndarray:
    """Read one picture: (y, x), or (y, x, 3) of colours.

    Alpha is left out, inks (CMYK) and palettes become colours, one bit per pixel becomes 0 and 1. ValueError
    for a file that is damaged, holds several pictures, or channels that are neither colours nor alpha.
    """
    file = Path(file)
    has_alpha, is_coded = _meaning(file)
    if is_coded:
        return read_or_raise(file, lambda: _decoded(file))
    picture = read_channels(file)
    picture = picture[..., :-1] if has_alpha else picture
    picture = picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
    if picture.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"{file} has the shape {picture.shape}; {EXPECTED}. Store its channels in files of their own."
        )
    return picture


def merge_equal_channels(values: np.ndarray, file: Path) -> np.ndarray:
    """Return labels that may have been saved as colours: one of the three, if they agree. Shape: (y, x)"""
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise ValueError(f"{file} is a coloured picture; expected one label per pixel.")
    return values[..., 0]


def read_channels(file: Path) -> np.ndarray:
    """Read one picture with all of its channels, whatever they mean: (y, x) or (y, x, channels)."""
    file = Path(file)
    picture = _read_tiff(file) if is_tiff(file) else _read_by_imageio(file)
    return picture.astype(np.uint8) if picture.dtype == bool else picture


def count_picture_channels(file: Path) -> int:
    """Count the channels that nnU-Net reads from a file: its colours, and alpha too; of a volume one."""
    file = Path(file)
    if is_tiff(file):
        return read_tiff_colours(file)[0]
    mode = _mode(file)
    return {"P": 3, "PA": 4, "CMYK": 4}.get(mode, sum(letter.isupper() for letter in mode.split(";")[0]) or 1)


def is_plain(file: Path, picture: np.ndarray) -> bool:
    """Return whether nnU-Net reads from `file` just what `read_picture` did: without alpha, inks or
    palette."""
    if is_tiff(file):
        return not _meaning(file)[1] and read_tiff_shape(file) == picture.shape
    return count_picture_channels(file) == (1 if picture.ndim == 2 else picture.shape[-1])


def _read_tiff(file: Path) -> np.ndarray:
    picture, axes = _without_single_pages(*read_tiff(file))
    if set(axes) - set("YXS"):
        raise ValueError(f"{file} holds a stack of the shape {picture.shape}; {EXPECTED}.")
    return np.moveaxis(picture, axes.index("S"), -1) if "S" in axes else picture


def _without_single_pages(picture: np.ndarray, axes: str) -> tuple[np.ndarray, str]:
    kept = [k for k, size in enumerate(picture.shape) if size > 1 or axes[k] in "YX"]
    return picture.reshape([picture.shape[k] for k in kept]), "".join(axes[k] for k in kept)


def _read_by_imageio(file: Path) -> np.ndarray:
    """Read as nnU-Net does; of 16 bits per colour it keeps 8."""
    from skimage.io import imread

    with read_or_raise(file, lambda: file.open("rb")) as stream:
        head = stream.read(26)
    if head[:4] == b"\x89PNG" and head[24] == 16 and head[25] != 0:  # IHDR: bit depth, and 0 for grey
        raise ValueError(f"{file} has 16 bits per colour, of which readers of PNG keep 8; store it as TIFF.")
    return read_or_raise(file, lambda: imread(file))


def _meaning(file: Path) -> tuple[bool, bool]:
    """Return whether the last channel is alpha, and whether the channels stand for other colours."""
    if is_tiff(file):
        return read_tiff_colours(file)[1:]
    mode = _mode(file)
    return mode in WITH_ALPHA, mode == "CMYK"


def _decoded(file: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _mode(file: Path) -> str:
    """Return Pillow's word for the type of a pixel."""
    from PIL import Image

    def mode() -> str:
        with Image.open(file) as picture:
            return picture.mode

    return read_or_raise(file, mode)
