"""Label maps with their geometry. Arrays have axes (z, y, x); spacing follows the array, not the header."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.images import Grid, grid_of, is_picture, read_image, read_picture

LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class LabelMap:
    """Integers on a grid in space."""

    file: Path
    array: np.ndarray  # (z, y, x), or (y, x)
    spacing_mm: tuple[float, ...]  # in the array's axis order
    grid: Grid

    @property
    def diagonal_mm(self) -> float:
        """Length of the image's diagonal, border voxels included."""
        return float(np.linalg.norm(np.multiply(self.array.shape, self.spacing_mm)))


def read_label_map(file: Path) -> LabelMap:
    """Read labels; stored floats are taken if they are whole numbers. Pictures have pixels of 1 x 1."""
    file = Path(file)
    if file.suffix.lower() in LOSSY:
        raise ValueError(f"{file} is a JPEG, which does not keep labels exact; store labels as PNG or TIFF.")
    if is_picture(file):
        return _of_picture(file)
    image = read_image(file)
    array = sitk.GetArrayFromImage(image)
    if array.ndim > 3 or image.GetNumberOfComponentsPerPixel() > 1:
        raise ValueError(
            f"{file} has the shape {array.shape}; expected one label per voxel of a 2D or 3D grid. "
            "Store label maps, not channels or probabilities."
        )
    if array.dtype.kind == "f" and file.name.endswith((".nii", ".nii.gz")):
        array = _as_stored(file, array)
    spacing_mm = tuple(float(mm) for mm in reversed(image.GetSpacing()))
    return LabelMap(file, _whole_numbers(file, array), spacing_mm, grid_of(image))


def _of_picture(file: Path) -> LabelMap:
    """(y, x), or (z, y, x) of a TIFF with several pages."""
    array = read_picture(file)
    colours = array.ndim == 3 and array.shape[-1] in (2, 3, 4)
    if array.ndim not in (2, 3) or colours:
        raise ValueError(
            f"{file} has the shape {array.shape}; expected one label per pixel, without colours. "
            "Store label maps as greyscale PNG or TIFF."
        )
    ones = (1.0,) * array.ndim
    grid = Grid(array.shape[::-1], ones, (0.0,) * array.ndim, tuple(np.eye(array.ndim).ravel().tolist()))
    return LabelMap(file, _whole_numbers(file, array), ones, grid)


def _as_stored(file: Path, array: np.ndarray) -> np.ndarray:
    """ITK reads NaN in a NIfTI file as 0; this puts it back."""
    import nibabel

    stored = np.asanyarray(nibabel.load(file).dataobj).T  # type: ignore[attr-defined]
    return np.where(np.isnan(stored.reshape(array.shape)), np.nan, array)


def _whole_numbers(file: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    if not np.isfinite(array).all():
        n_bad = np.count_nonzero(~np.isfinite(array))
        raise ValueError(
            f"{file} holds values that are no whole numbers: {n_bad} are NaN or infinite. "
            "The prediction failed there; predict this case again."
        )
    whole = array.astype(np.int32)
    if not np.array_equal(whole, array):
        example = array[whole != array][0]
        raise ValueError(
            f"{file} holds values that are no whole numbers, such as {example:.6g}; expected "
            "labels, not probabilities. Take the argmax (or threshold), and store integers."
        )
    return whole


def require_same_grid(prediction: LabelMap, reference: LabelMap) -> None:
    """Refuse to compare maps of different grids: resampling would change the answer without a word."""
    difference = prediction.grid.difference(reference.grid)
    if difference:
        raise ValueError(
            f"{prediction.file} and {reference.file} differ in {difference}. "
            "Bring the prediction onto the reference's grid before scoring."
        )
