"""Predicted and reference mask of one label, cut to the box that holds both: the input of every metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.surfaces import Surfaces, surfel_surfaces, voxel_surfaces

MOST_BOXES = 4096  # with labels above this number, each label is searched for by itself

Box = tuple[slice, ...]


@dataclass(frozen=True)
class ConfusionCounts:
    """Confusion matrix of one label, in voxels."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: ConfusionCounts) -> ConfusionCounts:
        return ConfusionCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def in_prediction(self) -> int:
        return self.tp + self.fp

    @property
    def in_reference(self) -> int:
        return self.tp + self.fn

    @property
    def empty_side(self) -> str:
        """Return which mask has no voxel: "", "prediction", "reference" or "both"."""
        if self.in_prediction and self.in_reference:
            return ""
        return "reference" if self.in_prediction else "prediction" if self.in_reference else "both"


@dataclass(frozen=True)
class MaskPair:
    """Masks of one label on a box of the image's grid; spacing in the array's axis order."""

    prediction: np.ndarray  # bool
    reference: np.ndarray  # bool
    spacing_mm: tuple[float, ...]
    diagonal_mm: float  # of the whole image
    n_counted: int  # voxels of the whole image, less the ignored ones
    box: Box  # place of the masks on the image's grid
    grid: tuple[int, ...]
    instances: np.ndarray | None = None  # of the reference, numbered; None: its connected components
    tolerance_mm: float = 1.0

    @cached_property
    def counts(self) -> ConfusionCounts:
        tp = int(np.count_nonzero(self.prediction & self.reference))
        fp = int(np.count_nonzero(self.prediction)) - tp
        fn = int(np.count_nonzero(self.reference)) - tp
        return ConfusionCounts(tp, fp, fn, self.n_counted - tp - fp - fn)

    @cached_property
    def voxels(self) -> Surfaces:
        return voxel_surfaces(self.prediction, self.reference, self.spacing_mm)

    @cached_property
    def surfels(self) -> Surfaces:
        return surfel_surfaces(self.prediction, self.reference, self.spacing_mm)

    @property
    def empty_side(self) -> str:
        return self.counts.empty_side

    def in_voxels(self) -> MaskPair:
        """Return the same masks with distances in voxels instead of mm."""
        ones = (1.0,) * len(self.spacing_mm)
        return replace(self, spacing_mm=ones, diagonal_mm=float(np.linalg.norm(self.grid)))

    def cut(self, axis: int, start: int, stop: int) -> MaskPair:
        """Return the masks cut to slices `start` to `stop`; the cut becomes part of the surface."""
        here = tuple(slice(start, stop) if k == axis else slice(None) for k in range(self.prediction.ndim))
        left_out = self.prediction[here].size - self.prediction.size
        return replace(
            self,
            prediction=self.prediction[here],
            reference=self.reference[here],
            n_counted=self.n_counted + left_out,
            box=tuple(
                slice(s.start + start, s.start + stop) if k == axis else s for k, s in enumerate(self.box)
            ),
        )

    def on_grid(self, part: np.ndarray) -> np.ndarray:
        """Return an array of the box placed on the image's grid, 0 elsewhere."""
        full = np.zeros(self.grid, part.dtype)
        full[self.box] = part
        return full


def find_boxes(array: np.ndarray) -> dict[int, Box]:
    """Return the bounding box of each label but 0 in (*grid) integers, found in one pass."""
    lowest, highest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if lowest >= 0 and highest <= MOST_BOXES:
        found = ndimage.find_objects(array)
        return {value: box for value, box in enumerate(found, start=1) if box is not None}
    return {int(v): ndimage.find_objects((array == v).view(np.uint8))[0] for v in np.unique(array) if v}


def join_boxes(boxes: list[Box]) -> Box:
    """Return the smallest box that holds all boxes."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)


@dataclass(frozen=True)
class LabelMapPair:
    """Predicted and reference label map of a case, on one grid; `pair` returns the masks of a label."""

    prediction: np.ndarray
    reference: np.ndarray
    spacing_mm: tuple[float, ...]
    ignore: int | None = None
    instances: bool = False  # the reference numbers instances of one label

    @cached_property
    def known(self) -> np.ndarray | None:
        return None if self.ignore is None else self.reference != self.ignore

    @cached_property
    def boxes(self) -> tuple[dict[int, Box], dict[int, Box]]:
        return find_boxes(self.prediction), find_boxes(self.reference)

    def box(self, label: Label) -> Box:
        """Return the box around both masks; one voxel if they are empty."""
        found = [boxes[v] for boxes in self.boxes for v in label.values if v in boxes]
        return join_boxes(found) if found else (slice(0, 1),) * self.reference.ndim

    def pair(self, label: Label, tolerance_mm: float = 1.0) -> MaskPair:
        """Return the masks of a label or region, both without the voxels that the reference ignores."""
        grid = self.reference.shape
        box = tuple(slice(0, size) for size in grid) if self.instances else self.box(label)
        known = True if self.known is None else self.known[box]
        reference = self.reference[box]
        return MaskPair(
            prediction=np.ascontiguousarray(label.mask(self.prediction[box]) & known),
            reference=np.ascontiguousarray(
                (reference > 0 if self.instances else label.mask(reference)) & known
            ),
            spacing_mm=self.spacing_mm,
            diagonal_mm=float(np.linalg.norm(np.multiply(grid, self.spacing_mm))),
            n_counted=self.reference.size if self.known is None else int(np.count_nonzero(self.known)),
            box=box,
            grid=grid,
            instances=reference if self.instances else None,
            tolerance_mm=tolerance_mm,
        )
