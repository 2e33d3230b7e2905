"""A label's two masks, cut to the box that holds both, and what every metric is computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.surfaces import Surfaces, surfel_surfaces, voxel_surfaces

MOST_BOXES = 4096  # labels above this number are searched for one by one

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Counts:
    """Voxels of the confusion matrix of one label."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def in_prediction(self) -> int:
        return self.tp + self.fp

    @property
    def in_reference(self) -> int:
        return self.tp + self.fn

    @property
    def empty(self) -> str:
        """Which mask has no voxel: "", "prediction", "reference" or "both"."""
        if self.in_prediction and self.in_reference:
            return ""
        return "reference" if self.in_prediction else "prediction" if self.in_reference else "both"


@dataclass(frozen=True)
class Pair:
    """Masks of one label on a part of the image's grid; spacing in the array's axis order."""

    prediction: np.ndarray  # bool
    reference: np.ndarray  # bool
    spacing_mm: tuple[float, ...]
    diagonal_mm: float  # of the whole image
    n_counted: int  # voxels of the whole image, less the ignored ones
    box: Box  # where the masks lie on the whole grid
    grid: tuple[int, ...]
    instances: np.ndarray | None = None  # of the reference, numbered; None: its connected components
    tolerance_mm: float = 1.0

    @cached_property
    def counts(self) -> Counts:
        tp = int(np.count_nonzero(self.prediction & self.reference))
        fp = int(np.count_nonzero(self.prediction)) - tp
        fn = int(np.count_nonzero(self.reference)) - tp
        return Counts(tp, fp, fn, self.n_counted - tp - fp - fn)

    @cached_property
    def voxels(self) -> Surfaces:
        return voxel_surfaces(self.prediction, self.reference, self.spacing_mm)

    @cached_property
    def surfels(self) -> Surfaces:
        return surfel_surfaces(self.prediction, self.reference, self.spacing_mm)

    @property
    def empty(self) -> str:
        return self.counts.empty

    def in_voxels(self) -> Pair:
        """The same masks with distances counted in voxels, whatever their size."""
        ones = (1.0,) * len(self.spacing_mm)
        return replace(self, spacing_mm=ones, diagonal_mm=float(np.linalg.norm(self.grid)))

    def cut(self, axis: int, start: int, stop: int) -> Pair:
        """Slices `start` to `stop` of the masks alone; the surface closes where they were cut."""
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

    def whole(self, part: np.ndarray) -> np.ndarray:
        """An array of the box on the whole grid, 0 elsewhere."""
        full = np.zeros(self.grid, part.dtype)
        full[self.box] = part
        return full


def boxes_of(array: np.ndarray) -> dict[int, Box]:
    """Where each label above 0 lies, found in one pass through (*grid) integers."""
    lowest, highest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if lowest >= 0 and highest <= MOST_BOXES:
        found = ndimage.find_objects(array)
        return {value: box for value, box in enumerate(found, start=1) if box is not None}
    return {int(v): ndimage.find_objects((array == v).view(np.uint8))[0] for v in np.unique(array) if v}


def union(boxes: list[Box]) -> Box:
    """The smallest box that holds all of them."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)


@dataclass(frozen=True)
class Case:
    """Two label maps on one grid, of which pairs of masks are cut."""

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
        return boxes_of(self.prediction), boxes_of(self.reference)

    def box(self, label: Label) -> Box:
        """Around both masks; one voxel if they are empty."""
        found = [boxes[v] for boxes in self.boxes for v in label.values if v in boxes]
        return union(found) if found else (slice(0, 1),) * self.reference.ndim

    def pair(self, label: Label, tolerance_mm: float = 1.0) -> Pair:
        """The masks of a label or region; voxels that the reference leaves open belong to neither."""
        grid = self.reference.shape
        box = tuple(slice(0, size) for size in grid) if self.instances else self.box(label)
        known = True if self.known is None else self.known[box]
        reference = self.reference[box]
        return Pair(
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
