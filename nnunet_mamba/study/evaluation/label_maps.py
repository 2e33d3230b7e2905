"""Label maps with their geometry. Arrays have axes (z, y, x); spacing follows the array, not the header."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_mamba.io.images import (
    REORIENTING,
    TIFF,
    Grid,
    header_contradiction,
    is_picture,
    is_tiff,
    one_channel,
    read_header,
    read_picture,
    read_tiff,
    read_values,
    spacing_of_tiff,
)

LOSSY = (".jpg", ".jpeg")
PLACEHOLDER = (1.0, 1.0, 1.0)  # what nnU-Net writes of a TIFF volume whose spacing it was not told
ROUNDING = 1e-3  # labels stored as floats may be off by so much


@dataclass(frozen=True)
class LabelMap:
    """Integers on a grid in space."""

    file: Path
    array: np.ndarray  # (z, y, x), or (y, x)
    spacing_mm: tuple[float, ...] | None  # in the array's axis order; None: the file does not tell
    grid: Grid

    @property
    def diagonal_mm(self) -> float:
        """Length of the image's diagonal, border voxels included."""
        assert self.spacing_mm is not None
        return float(np.linalg.norm(np.multiply(self.array.shape, self.spacing_mm)))


def read_label_map(file: Path, reader: str = "", spacing_mm: tuple[float, ...] | None = None) -> LabelMap:
    """Read labels; stored floats are taken if they are whole numbers.

    Args:
        reader: nnU-Net's reader, whose view of the header counts (default: its choice by ending).
        spacing_mm: of files that do not tell theirs: pictures, whose pixels are 1 x 1 without it, and volumes
            in TIFF files without nnU-Net's CASE.json beside them.
    """
    file = Path(file)
    if file.suffix.lower() in LOSSY:
        raise ValueError(f"{file} is a JPEG, which does not keep labels exact; store labels as PNG or TIFF.")
    if is_tiff(file) and (found := _tiff_volume(file, reader)) is not None:
        return _without_header(file, found, spacing_of_tiff(file), spacing_mm)
    if is_picture(file):
        return _of_picture(file, spacing_mm)
    header = read_header(file, reader)
    if not reader and (contradiction := header_contradiction(file)):
        raise ValueError(
            f"The header of {file} contradicts itself: {contradiction}. Say by --dataset-json whose reader "
            "holds, or correct the header."
        )
    if spacing_mm is not None:
        raise ValueError(f"{file} tells the spacing of its voxels; leave out --spacing.")
    array = read_values(file)
    if array.ndim > 3 or header.n_components > 1:
        raise ValueError(
            f"{file} has the shape {array.shape}, and values per voxel: {header.n_components}; expected one "
            "label per voxel of a 2D or 3D grid. Store label maps, not channels, colours or probabilities."
        )
    spacing = tuple(float(mm) for mm in reversed(header.spacing))
    return LabelMap(file, _whole_numbers(file, array), spacing, header.grid)


def _tiff_volume(file: Path, reader: str) -> np.ndarray | None:
    """(z, y, x) of a TIFF file that is not a picture. Three slices may be stored as if they were colours, but
    then nnU-Net's reader for volumes, or its file of the spacing, tells that they are none."""
    array, axes = read_tiff(file)
    is_told = reader == TIFF or spacing_of_tiff(file) is not None
    is_picture = "S" in axes or 1 in array.shape[:1]
    return None if array.ndim != 3 or (is_picture and not is_told) else array


def _of_picture(file: Path, spacing_mm: tuple[float, ...] | None) -> LabelMap:
    array = one_channel(read_picture(file), file)
    return _without_header(file, array, None if spacing_mm else (1.0, 1.0), spacing_mm)


def _without_header(
    file: Path, array: np.ndarray, told: tuple[float, ...] | None, chosen: tuple[float, ...] | None
) -> LabelMap:
    """A label map whose spacing is `told` by another file or `chosen` by the user, or unknown."""
    told = None if told == PLACEHOLDER and chosen else told
    if told and chosen:
        raise ValueError(f"The spacing of {file} is told by a file beside it; leave out --spacing.")
    spacing = told or chosen
    if spacing is not None and len(spacing) != array.ndim:
        raise ValueError(f"{file} has {array.ndim} axes, but --spacing has {len(spacing)} numbers.")
    return LabelMap(file, _whole_numbers(file, array), spacing, Grid.of_picture(array.shape, spacing))


def _whole_numbers(file: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    if not np.isfinite(array).all():
        n_bad = np.count_nonzero(~np.isfinite(array))
        raise ValueError(
            f"{file} holds values that are no whole numbers: {n_bad} are NaN or infinite. "
            "The prediction failed there; predict this case again."
        )
    rounded = np.rint(array).astype(np.int32)
    off = np.abs(array - rounded) > ROUNDING
    if off.any():
        example = array[off][0]
        raise ValueError(
            f"{file} holds values that are no whole numbers, such as {example:.6g}; expected "
            "labels, not probabilities. Take the argmax (or threshold), and store integers."
        )
    return rounded


def _spaced(label_map: LabelMap, spacing_mm: tuple[float, ...] | None) -> LabelMap:
    grid = Grid.of_picture(label_map.array.shape, spacing_mm)
    return replace(label_map, spacing_mm=spacing_mm, grid=grid)


def on_one_grid(prediction: LabelMap, reference: LabelMap, reader: str = "") -> LabelMap:
    """Return the prediction in the order in which the reference stores its voxels.

    ValueError for maps of different grids: resampling would change the answer without a word. A spacing that
    only the prediction tells is taken to be that of both, unless it is nnU-Net's placeholder; the order is
    changed for readers of nnU-Net that turn every image, and so may store it as another one was.
    """
    if is_tiff(prediction.file) and prediction.spacing_mm in (None, PLACEHOLDER):
        prediction = _spaced(prediction, reference.spacing_mm)
    elif reference.spacing_mm is None:
        reference = _spaced(reference, prediction.spacing_mm)
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
