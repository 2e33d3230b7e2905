"""Pictures of cases: slices with the outlines of reference and prediction.

Arrays have axes (z, y, x) in LPS orientation: z upwards, y to the back, x to the patient's left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_mamba.io.images import ITK, read_header, read_image, read_values
from nnunet_mamba.study.evaluation import Label
from nnunet_mamba.study.report.figures import encode_png, render_png
from nnunet_mamba.study.report.predicted_cases import CaseFiles

REFERENCE_COLOUR = "#2dd4bf"  # outlines; both can be seen on grey values
PREDICTION_COLOUR = "#fb923c"
PLANES = ("axial", "coronal", "sagittal")  # normal to z, y, x
MARGIN_MM = 10.0  # of image around the labels
HEIGHT_IN, DPI = 2.4, 105  # of the pictures


@dataclass(frozen=True)
class Slice:
    """Images (rows, columns) of one plane, rows downwards, and the size of a pixel in mm."""

    plane: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    pixel_mm: tuple[float, float]  # row, column


@dataclass(frozen=True)
class Volume:
    """Three arrays of one case on one grid, cropped around the labels."""

    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]


def read_volume(files: CaseFiles) -> Volume:
    """Read a case in LPS orientation, cropped to `MARGIN_MM` around reference and prediction.

    Evaluation found them on one grid; if a header gives two orientations, the image's is used for all three.
    """
    assert files.image is not None, "only cases with an image are shown"
    image, grid = read_image(files.image), read_header(files.image, ITK).grid
    images = [image]
    for file in (files.reference, files.prediction):
        labels = grid.reorder(read_values(file), read_header(file).grid)
        images.append(sitk.GetImageFromArray(labels))
        images[-1].CopyInformation(image)
    images = [orient_to_lps(each) for each in images]
    arrays = [to_volume(to_grey(each)) for each in images]
    spacing = (1.0, *map(float, images[0].GetSpacing()[::-1]))[-3:]
    box = find_crop_box((arrays[1] > 0) | (arrays[2] > 0), spacing)
    return Volume(arrays[0][box], arrays[1][box], arrays[2][box], spacing)


def orient_to_lps(image: sitk.Image) -> sitk.Image:
    return sitk.DICOMOrient(image, "LPS") if image.GetDimension() == 3 else image


def to_grey(image: sitk.Image) -> np.ndarray:
    """Return one number per pixel: the mean of colours."""
    array = sitk.GetArrayFromImage(image)
    return array.mean(-1) if image.GetNumberOfComponentsPerPixel() > 1 else array


def to_volume(array: np.ndarray) -> np.ndarray:
    """Return 2D images as volumes of one slice."""
    return array if array.ndim == 3 else array[None]


def find_crop_box(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """Return the bounding box of `mask` with the margin; the whole grid for an empty mask."""
    if not mask.any():
        return tuple(slice(None) for _ in mask.shape)
    box = []
    for places, mm in zip(np.nonzero(mask), spacing_mm, strict=True):
        margin = round(MARGIN_MM / mm)
        box.append(slice(max(int(places.min()) - margin, 0), int(places.max()) + margin + 1))
    return tuple(box)


def cut_slices(volume: Volume, labels: tuple[Label, ...]) -> list[Slice]:
    """Return a slice per plane (of a 2D image the axial one only), each where the labels cover most."""
    planes = PLANES if volume.image.shape[0] > 1 else PLANES[:1]
    return [cut_slice(volume, labels, axis, plane) for axis, plane in enumerate(planes)]


def cut_slice(volume: Volume, labels: tuple[Label, ...], axis: int, plane: str) -> Slice:
    """Return the slice normal to `axis`, head up."""
    index = find_fullest_index(volume.reference, labels, axis)
    pictures = [np.take(array, index, axis) for array in (volume.image, volume.reference, volume.prediction)]
    if axis > 0:  # rows are z, which points up
        pictures = [picture[::-1] for picture in pictures]
    rows, columns = (mm for other, mm in enumerate(volume.spacing_mm) if other != axis)
    image, reference, prediction = pictures
    return Slice(plane, image, reference, prediction, (rows, columns))


def find_fullest_index(reference: np.ndarray, labels: tuple[Label, ...], axis: int) -> int:
    """Return the index along `axis` where the labels cover most, each label counted as equally large."""
    others = tuple(other for other in range(3) if other != axis)
    share = np.zeros(reference.shape[axis])
    for label in labels:
        area = label.mask(reference).sum(others)
        share += area / max(area.max(), 1)
    return int(share.argmax()) if share.any() else reference.shape[axis] // 2


def draw_slice(axes: Axes, shown: Slice, labels: tuple[Label, ...]) -> None:
    """Draw grey values, 1st to 99.5th percentile, and the outlines of reference and prediction (on top)."""
    low, high = np.percentile(shown.image, (1, 99.5))
    rows, columns = shown.pixel_mm
    axes.imshow(shown.image, cmap="gray", vmin=low, vmax=high, aspect=rows / columns, interpolation="nearest")
    for label_map, colour, width in (
        (shown.reference, REFERENCE_COLOUR, 2.4),
        (shown.prediction, PREDICTION_COLOUR, 1.0),
    ):
        for label in labels:
            draw_outline(axes, label.mask(label_map), colour, width)
    axes.set_axis_off()


def draw_outline(axes: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    """Draw the edges of the mask's voxels, without smoothing."""
    if not mask.any():
        return
    fine = 8
    upsampled = np.kron(np.pad(mask, 1), np.ones((fine, fine)))
    rows, columns = (
        ((np.arange(n * fine) + 0.5) / fine) - 1.5 for n in (mask.shape[0] + 2, mask.shape[1] + 2)
    )
    axes.contour(columns, rows, upsampled, levels=[0.5], colors=[colour], linewidths=width)


def render_slices(slices: Sequence[Slice], labels: tuple[Label, ...]) -> list[tuple[str, str]]:
    """Return a data URI and the plane's name per plane, to one scale; the tallest is `HEIGHT_IN` high."""
    tallest_mm = max(shown.image.shape[0] * shown.pixel_mm[0] for shown in slices)
    found = []
    for shown in slices:
        height, width = (
            n * mm * HEIGHT_IN / tallest_mm for n, mm in zip(shown.image.shape, shown.pixel_mm, strict=True)
        )
        figure = Figure(figsize=(width, height), facecolor="black")
        draw_slice(figure.add_axes((0, 0, 1, 1)), shown, labels)
        found.append((encode_png(render_png(figure, DPI)), shown.plane))
    return found
