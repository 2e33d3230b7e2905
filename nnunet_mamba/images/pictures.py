"""Pictures: PNG, JPEG, BMP and TIFF, as grey or red, green and blue, whatever they are stored as."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_mamba.images.tiff import colours_of_tiff, is_tiff, read_tiff
from nnunet_mamba.images.whole import or_refuse

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")  # of Pillow's modes
EXPECTED = "expected grey, or red, green and blue, either with or without alpha"


def is_picture(file: Path) -> bool:
    return Path(file).suffix.lower() in ENDINGS


def read_picture(file: Path) -> np.ndarray:
    """Read one picture: (y, x), or (y, x, 3) of colours.

    Alpha is left out, inks (CMYK) become colours, one bit per pixel becomes 0 and 1. ValueError for a file
    that is damaged, holds several pictures, or channels that are neither colours nor alpha.
    """
    file = Path(file)
    stored = read_channels(file)
    picture = _colours(stored, *_meaning(file))
    if picture.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"{file} has the shape {picture.shape}; {EXPECTED}. Store its channels in files of their own."
        )
    return picture


def read_channels(file: Path) -> np.ndarray:
    """Read one picture with all of its channels, whatever they mean: (y, x) or (y, x, channels)."""
    file = Path(file)
    picture = _read_tiff(file) if is_tiff(file) else _read_by_imageio(file)
    return picture.astype(np.uint8) if picture.dtype == bool else picture


def n_channels_of_picture(file: Path) -> int:
    """Count the channels that nnU-Net reads from a file: its colours, and alpha too; of a volume one."""
    file = Path(file)
    if is_tiff(file):
        return colours_of_tiff(file)[0]
    mode = _mode(file)
    return {"P": 3, "PA": 4, "CMYK": 4}.get(mode, sum(letter.isupper() for letter in mode.split(";")[0]) or 1)


def is_plain(file: Path, picture: np.ndarray) -> bool:
    """Say whether nnU-Net reads from `file` just what `read_picture` did: without alpha, and no inks."""
    return n_channels_of_picture(file) == (1 if picture.ndim == 2 else picture.shape[-1])


def _read_tiff(file: Path) -> np.ndarray:
    picture, axes = read_tiff(file)
    if set(axes) - set("YXS"):
        raise ValueError(f"{file} holds a stack of the shape {picture.shape}; {EXPECTED}.")
    return np.moveaxis(picture, axes.index("S"), -1) if "S" in axes else picture


def _read_by_imageio(file: Path) -> np.ndarray:
    from skimage.io import imread

    return or_refuse(file, lambda: imread(file))


def _meaning(file: Path) -> tuple[bool, bool]:
    """Whether the last channel is alpha, and whether the channels are inks."""
    if is_tiff(file):
        return colours_of_tiff(file)[1:]
    mode = _mode(file)
    return mode in WITH_ALPHA, mode == "CMYK"


def _mode(file: Path) -> str:
    """Pillow's word for what a pixel is."""
    from PIL import Image

    def mode() -> str:
        with Image.open(file) as picture:
            return picture.mode

    return or_refuse(file, mode)


def _colours(picture: np.ndarray, has_alpha: bool, has_inks: bool) -> np.ndarray:
    """Without alpha; grey without an axis of channels; inks as a printer's colours."""
    if has_inks and picture.dtype == np.uint8 and picture.shape[2:] == (4,):
        from PIL import Image

        return np.asarray(Image.fromarray(picture, "CMYK").convert("RGB"))
    picture = picture[..., :-1] if has_alpha else picture
    return picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
