"""Slices of a case with the outlines of reference and prediction.

Arrays have axes (z, y, x) in LPS orientation: z upwards, y to the back, x to the patient's left.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.io.images import ITK, read_header, read_image, read_values
from nnunet_mamba.study.evaluation import Label
from nnunet_mamba.study.report.quickstart_content import PREDICTION_COLOUR, REFERENCE_COLOUR, CaseFiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLANES = ("axial", "coronal", "sagittal")  # normal to z, y, x
MARGIN_MM = 10.0  # of image around the labels


@dataclass(frozen=True)
class Slice:
    """One plane: images (rows, columns) as they are shown, rows downwards, and the size of a pixel in mm."""

    plane: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    pixel_mm: tuple[float, float]  # row, column


@dataclass(frozen=True)
class Volume:
    """One case: three arrays on one grid, cropped around what is labelled."""

    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]


def read_volume(files: CaseFiles) -> Volume:
    """The case in LPS orientation, with `MARGIN_MM` around reference and prediction.

    Evaluation found them on one grid; where headers place voxels twice, all are turned by that of the image.
    """
    image, grid = read_image(files.image), read_header(files.image, ITK).grid
    images = [image]
    for file in (files.reference, files.prediction):
        labels = grid.reorder(read_values(file), read_header(file).grid)
        images.append(sitk.GetImageFromArray(labels))
        images[-1].CopyInformation(image)
    images = [upright(each) for each in images]
    arrays = [as_volume(grey(each)) for each in images]
    spacing = (1.0, *map(float, images[0].GetSpacing()[::-1]))[-3:]
    box = labelled_box((arrays[1] > 0) | (arrays[2] > 0), spacing)
    return Volume(arrays[0][box], arrays[1][box], arrays[2][box], spacing)


def upright(image: sitk.Image) -> sitk.Image:
    return sitk.DICOMOrient(image, "LPS") if image.GetDimension() == 3 else image


def grey(image: sitk.Image) -> np.ndarray:
    """One number per pixel: the mean of colours."""
    array = sitk.GetArrayFromImage(image)
    return array.mean(-1) if image.GetNumberOfComponentsPerPixel() > 1 else array


def as_volume(array: np.ndarray) -> np.ndarray:
    """2D images are volumes of one slice."""
    return array if array.ndim == 3 else array[None]


def labelled_box(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """The box of `mask` with the margin; the whole grid for an empty mask."""
    if not mask.any():
        return tuple(slice(None) for _ in mask.shape)
    box = []
    for places, mm in zip(np.nonzero(mask), spacing_mm, strict=True):
        margin = round(MARGIN_MM / mm)
        box.append(slice(max(int(places.min()) - margin, 0), int(places.max()) + margin + 1))
    return tuple(box)


def cut(volume: Volume, labels: tuple[Label, ...]) -> list[Slice]:
    """One slice per plane (the axial one alone of a 2D image), each where the labels show most."""
    planes = PLANES if volume.image.shape[0] > 1 else PLANES[:1]
    return [cut_plane(volume, labels, axis, plane) for axis, plane in enumerate(planes)]


def cut_plane(volume: Volume, labels: tuple[Label, ...], axis: int, plane: str) -> Slice:
    """The slice normal to `axis`, head up."""
    index = fullest_index(volume.reference, labels, axis)
    pictures = [np.take(array, index, axis) for array in (volume.image, volume.reference, volume.prediction)]
    if axis > 0:  # rows are z, which points up
        pictures = [picture[::-1] for picture in pictures]
    rows, columns = (mm for other, mm in enumerate(volume.spacing_mm) if other != axis)
    image, reference, prediction = pictures
    return Slice(plane, image, reference, prediction, (rows, columns))


def fullest_index(reference: np.ndarray, labels: tuple[Label, ...], axis: int) -> int:
    """Where along `axis` the labels have most of their area, every label counted as equally large."""
    others = tuple(other for other in range(3) if other != axis)
    share = np.zeros(reference.shape[axis])
    for label in labels:
        area = label.mask(reference).sum(others)
        share += area / max(area.max(), 1)
    return int(share.argmax()) if share.any() else reference.shape[axis] // 2


def draw(axes: "Axes", shown: Slice, labels: tuple[Label, ...], linewidth: float) -> None:
    """Grey values between the 1st and 99.5th percentile; reference outlined below, prediction on top."""
    low, high = np.percentile(shown.image, (1, 99.5))
    rows, columns = shown.pixel_mm
    axes.imshow(shown.image, cmap="gray", vmin=low, vmax=high, aspect=rows / columns, interpolation="nearest")
    for label_map, colour, width in (
        (shown.reference, REFERENCE_COLOUR, 2.4 * linewidth),
        (shown.prediction, PREDICTION_COLOUR, linewidth),
    ):
        for label in labels:
            outline(axes, label.mask(label_map), colour, width)
    axes.set_axis_off()


def outline(axes: "Axes", mask: np.ndarray, colour: str, width: float) -> None:
    """Trace the edges of the voxels, so that a line shows what the label map says and no more."""
    if not mask.any():
        return
    fine = 8
    enlarged = np.kron(np.pad(mask, 1), np.ones((fine, fine)))
    rows, columns = (
        ((np.arange(n * fine) + 0.5) / fine) - 1.5 for n in (mask.shape[0] + 2, mask.shape[1] + 2)
    )
    axes.contour(columns, rows, enlarged, levels=[0.5], colors=[colour], linewidths=width)
