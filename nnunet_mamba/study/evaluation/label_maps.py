"""Label maps with their geometry. Arrays have axes (z, y, x); spacing follows the array, not the header."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_mamba.io.images import (
    REORIENTING,
    TIFF,
    Grid,
    find_header_contradiction,
    is_picture,
    is_tiff,
    merge_equal_channels,
    read_header,
    read_picture,
    read_tiff,
    read_tiff_spacing,
    read_values,
)

LOSSY = (".jpg", ".jpeg")
PLACEHOLDER = (1.0, 1.0, 1.0)  # nnU-Net writes it for a TIFF volume of unknown spacing
ROUNDING = 1e-3  # tolerance for labels stored as floats


@dataclass(frozen=True)
class LabelMap:
    """Labels on a grid in space, as read from a file."""

    file: Path
    array: np.ndarray  # (z, y, x), or (y, x)
    spacing_mm: tuple[float, ...] | None  # in the array's axis order; None: not in the file
    grid: Grid


def read_label_map(file: Path, reader: str = "", spacing_mm: tuple[float, ...] | None = None) -> LabelMap:
    """Read labels; floats are accepted if they are whole numbers.

    Args:
        reader: nnU-Net's reader, whose view of the header counts (default: its choice by ending).
        spacing_mm: of files without a spacing: pictures, whose pixels are 1 x 1 by default, and volumes in
            TIFF files without nnU-Net's CASE.json beside them.
    """
    file = Path(file)
    if file.suffix.lower() in LOSSY:
        raise ValueError(f"{file} is a JPEG, which does not keep labels exact; store labels as PNG or TIFF.")
    if is_tiff(file) and (found := _read_tiff_volume(file, reader)) is not None:
        return _make_label_map(file, found, read_tiff_spacing(file), spacing_mm)
    if is_picture(file):
        return _read_picture_labels(file, spacing_mm)
    header = read_header(file, reader)
    if not reader and (contradiction := find_header_contradiction(file)):
        raise ValueError(
            f"The header of {file} contradicts itself: {contradiction}. Give --dataset-json, by which the "
            "reader is known, or correct the header."
        )
    if spacing_mm is not None:
        raise ValueError(f"{file} states the spacing of its voxels; leave out --spacing.")
    array = read_values(file)
    if array.ndim > 3 or header.n_components > 1:
        raise ValueError(
            f"{file} has the shape {array.shape}, and values per voxel: {header.n_components}; expected one "
            "label per voxel of a 2D or 3D grid. Store label maps, not channels, colours or probabilities."
        )
    spacing = tuple(float(mm) for mm in reversed(header.spacing))
    return LabelMap(file, _to_integers(file, array), spacing, header.grid)


def _read_tiff_volume(file: Path, reader: str) -> np.ndarray | None:
    """Return the (z, y, x) array of a TIFF file, None for a picture.

    Three slices may be stored like colours; nnU-Net's reader for volumes, or its file of the spacing, shows
    that they are slices.
    """
    array, axes = read_tiff(file)
    is_volume = reader == TIFF or read_tiff_spacing(file) is not None
    is_picture = "S" in axes or 1 in array.shape[:1]
    return None if array.ndim != 3 or (is_picture and not is_volume) else array


def _read_picture_labels(file: Path, spacing_mm: tuple[float, ...] | None) -> LabelMap:
    array = merge_equal_channels(read_picture(file), file)
    return _make_label_map(file, array, None if spacing_mm else (1.0, 1.0), spacing_mm)


def _make_label_map(
    file: Path, array: np.ndarray, stored: tuple[float, ...] | None, chosen: tuple[float, ...] | None
) -> LabelMap:
    """Return a label map whose spacing is `stored` in another file, `chosen` by the user, or unknown."""
    stored = None if stored == PLACEHOLDER and chosen else stored
    if stored and chosen:
        raise ValueError(f"The spacing of {file} is stated in a file beside it; leave out --spacing.")
    spacing = stored or chosen
    if spacing is not None and len(spacing) != array.ndim:
        raise ValueError(f"{file} has {array.ndim} axes, but --spacing has {len(spacing)} numbers.")
    return LabelMap(file, _to_integers(file, array), spacing, Grid.of_picture(array.shape, spacing))


def _to_integers(file: Path, array: np.ndarray) -> np.ndarray:
    """Return the labels as integers. ValueError unless they are whole numbers."""
    if array.dtype.kind in "iu":
        return array
    if not np.isfinite(array).all():
        n_bad = np.count_nonzero(~np.isfinite(array))
        raise ValueError(
            f"{file} holds values that are not whole numbers: {n_bad} are NaN or infinite. "
            "The prediction failed there; predict this case again."
        )
    rounded = np.rint(array).astype(np.int32)
    off = np.abs(array - rounded) > ROUNDING
    if off.any():
        example = array[off][0]
        raise ValueError(
            f"{file} holds values that are not whole numbers, such as {example:.6g}; expected "
            "labels, not probabilities. Take the argmax (or threshold), and store integers."
        )
    return rounded


def _with_spacing(label_map: LabelMap, spacing_mm: tuple[float, ...] | None) -> LabelMap:
    grid = Grid.of_picture(label_map.array.shape, spacing_mm)
    return replace(label_map, spacing_mm=spacing_mm, grid=grid)


def align_to_reference(prediction: LabelMap, reference: LabelMap, reader: str = "") -> LabelMap:
    """Return the prediction with its voxels in the reference's order.

    ValueError for maps of different grids: resampling would silently change the scores. If only the
    prediction has a spacing, and not nnU-Net's placeholder, it counts for both. The order of voxels changes
    for readers of nnU-Net that turn every image, and so may store it in another order than the reference.
    """
    if is_tiff(prediction.file) and prediction.spacing_mm in (None, PLACEHOLDER):
        prediction = _with_spacing(prediction, reference.spacing_mm)
    elif reference.spacing_mm is None:
        reference = _with_spacing(reference, prediction.spacing_mm)
    difference = prediction.grid.difference(reference.grid)
    if difference and reader in REORIENTING and reference.grid.reordering(prediction.grid):
        array = reference.grid.reorder(prediction.array, prediction.grid)
        return replace(prediction, array=array, grid=reference.grid, spacing_mm=reference.spacing_mm)
    if difference:
        raise ValueError(
            f"{prediction.file} and {reference.file} differ in {difference}. "
            "Bring the prediction onto the reference's grid before scoring."
        )
    return prediction
