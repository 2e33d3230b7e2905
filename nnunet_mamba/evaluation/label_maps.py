"""Label maps with their geometry. Arrays have axes (z, y, x); spacing follows the array, not the header."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.images import Grid, grid_of, read_image


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
    """Read labels; stored floats are taken if they are whole numbers."""
    image = read_image(file)
    array = sitk.GetArrayFromImage(image)
    if array.ndim > 3 or image.GetNumberOfComponentsPerPixel() > 1:
        raise ValueError(
            f"{file} has the shape {array.shape}; expected one label per voxel of a 2D or 3D grid."
        )
    whole = array if array.dtype.kind in "iu" else np.rint(array)
    if not np.array_equal(whole, array):  # NaN differs from itself and is refused as well
        raise ValueError(
            f"{file} holds values that are no whole numbers; expected labels, not probabilities."
        )
    return LabelMap(
        Path(file),
        whole.astype(np.int64, copy=False),
        tuple(float(mm) for mm in reversed(image.GetSpacing())),
        grid_of(image),
    )


def require_same_grid(prediction: LabelMap, reference: LabelMap) -> None:
    """Refuse to compare maps of different grids: resampling would change the answer without a word."""
    difference = prediction.grid.difference(reference.grid)
    if difference:
        raise ValueError(
            f"{prediction.file} and {reference.file} differ in {difference}. "
            "Bring the prediction onto the reference's grid before scoring."
        )
