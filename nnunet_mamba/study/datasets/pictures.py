"""Pictures of 2D challenges as nnU-Net trains on them: colours as uint8, one label per pixel.

Arrays have axes (y, x) or (y, x, colours).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_mamba.io.images import merge_equal_channels, read_picture

FRAME, FIELD = (1080, 1920), (slice(28, 28 + 1024), slice(320, 320 + 1280))  # of EndoVis 2017's videos
INSTRUMENTS = {  # part of a folder's name -> label, as in EndoVis 2017's type mapping
    "bipolar_forceps": 1,
    "prograsp_forceps": 2,
    "large_needle_driver": 3,
    "vessel_sealer": 4,
    "grasping_retractor": 5,
    "monopolar_curved_scissors": 6,
    "other": 7,
}
INTERIOR, BOUNDARY = 1, 2
SMALLEST_INTERIOR_PX = 16
PERCENTILES = (1, 99)  # of the pixels that are not zero, become 0 and 255


def read_colours(file: Path) -> np.ndarray:
    """Return (y, x, 3) uint8 of a picture of 8 bits, grey or coloured, with or without transparency."""
    picture = to_three_channels(read_picture(file))
    if picture.dtype != np.uint8:
        raise ValueError(f"{file} has values of {picture.dtype}; expected a picture of 8 bits per colour.")
    return picture


def to_three_channels(picture: np.ndarray) -> np.ndarray:
    """Return grey three times, colours unchanged: (y, x) or (y, x, 3) -> (y, x, 3)."""
    return picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)


def read_microscopy(file: Path) -> np.ndarray:
    """Return (y, x, 3) uint8 of a micrograph of any depth, each channel stretched between its percentiles.

    The baseline of the NeurIPS 2022 Cell Segmentation challenge does the same.
    """
    picture = to_three_channels(read_picture(file))
    _check_finite(picture, file)
    return np.stack([_stretch_contrast(channel) for channel in np.moveaxis(picture, -1, 0)], -1)


def _check_finite(picture: np.ndarray, file: Path) -> None:
    if not np.isfinite(picture).all():
        raise ValueError(f"{file} holds values that are NaN or infinite; fetch it again, or remove the case.")


def _stretch_contrast(channel: np.ndarray) -> np.ndarray:
    visible = channel[channel > 0]
    low, high = np.percentile(visible, PERCENTILES) if visible.size else (0, 0)
    if high - low <= 1e-3:
        return np.clip(channel, 0, 255).astype(np.uint8)
    return (np.clip((channel - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def read_interior_and_boundary(files: Sequence[Path]) -> np.ndarray:
    """Return a map with 1 within a cell, and 2 on its rim and one pixel around it, from a map of instances.

    The definition is that of the challenge's baseline; interiors below 16 pixels are dropped.
    """
    from skimage.measure import label
    from skimage.morphology import dilation, disk
    from skimage.segmentation import find_boundaries

    instances = merge_equal_channels(read_picture(files[0]), files[0])
    _check_finite(instances, files[0])
    if (instances < 0).any() or (instances != np.rint(instances)).any():
        raise ValueError(f"{files[0]} should number cells by whole numbers from 1 on, and hold 0 elsewhere.")
    instances = instances.astype(np.int64)
    rim = dilation(find_boundaries(instances, mode="inner"), disk(1))
    interior = (instances > 0) & ~rim
    pieces = label(interior, connectivity=1)
    large = np.bincount(pieces.ravel()) >= SMALLEST_INTERIOR_PX
    return np.where(rim, BOUNDARY, np.where(interior & large[pieces], INTERIOR, 0))


def read_endoscopy(file: Path) -> np.ndarray:
    """Return (1024, 1280, 3) uint8: the camera's field without the black frame of the recording."""
    return crop_field_of_view(read_colours(file))


def crop_field_of_view(picture: np.ndarray) -> np.ndarray:
    """Return the camera's field of a frame; other pictures are returned unchanged."""
    return picture[FIELD] if picture.shape[:2] == FRAME else picture


def read_instruments(files: Sequence[Path]) -> np.ndarray:
    """Return labels of the tools, from one mask per tool or from one file with all types.

    Where masks overlap, the later in the order of their folders wins.
    """
    if files[0].parent.name == "TypeSegmentation":
        return crop_field_of_view(merge_equal_channels(read_picture(files[0]), files[0]))
    labels: np.ndarray | None = None
    for file in sorted(files):
        picture = crop_field_of_view(read_picture(file))
        mask = np.atleast_3d(picture).max(axis=-1) > 0  # a few masks were saved in colours
        labels = np.zeros(mask.shape, np.uint8) if labels is None else labels
        if labels.shape != mask.shape:
            raise ValueError(f"{file} has the size {mask.shape}, other masks of this frame {labels.shape}.")
        labels[mask] = get_instrument_label(file.parent.name)
    assert labels is not None
    return labels


def get_instrument_label(folder: str) -> int:
    """Return the label of the tool in a folder's name: Left_Prograsp_Forceps_labels -> 2."""
    for name, number in INSTRUMENTS.items():
        if name in folder.lower():
            return number
    raise ValueError(f"The folder {folder} names no known tool; known are {', '.join(INSTRUMENTS)}.")


def resize_picture(picture: np.ndarray, size: tuple[int, int], *, labels: bool) -> np.ndarray:
    """Return the picture in another size, by interpolation or for labels the nearest pixel; dtype stays."""
    from skimage.transform import resize

    order = 0 if labels else 1
    new = resize(picture, size, order=order, preserve_range=True, anti_aliasing=not labels)
    return np.rint(new).astype(picture.dtype)
