"""Files of uncertainty beside label maps: a map per image, and a table with a line per image and label.

    OUTPUT/CASE.nii.gz                     label map
    OUTPUT/disagreement/CASE.nii.gz        float32 on the label map's grid; 0 outside of the crop box
    OUTPUT/disagreement/uncertainty.csv    the columns of COLUMNS

They have a folder of their own, named by what is measured (`members` defines it): nnU-Net's and our tools
take every file of a folder with the ending of label maps for one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from nnunet_mamba.inference.export import Exporter, Prediction
from nnunet_mamba.inference.labelling import as_kernel_input, interpolate
from nnunet_mamba.inference.members import MembersPredictor
from nnunet_mamba.inference.resampling import Target
from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.images import check_complete, read_header, write_like
from nnunet_mamba.io.locks import hold_lock

TABLE = "uncertainty.csv"
COLUMNS = (
    "case",
    "label",  # its number; a region joins its numbers by +
    "name",
    "voxels",  # of the label map
    "mean",  # of the map within these voxels; empty without any
    "expected_dice",  # of `MemberSums.measure`, on the network's grid
)


def map_file(target: Path, kind: str) -> Path:
    """Return the map of a case whose label map is TARGET with an ending."""
    return target.parent / kind / f"{target.name}.nii.gz"


@dataclass(frozen=True)
class MeasuredPrediction(Prediction):
    """Prediction with its uncertainty.

    uncertainty     map in nats, in the image's own order of axes
    expected_dice   of each label or region
    """

    uncertainty: np.ndarray
    expected_dice: np.ndarray


class UncertaintyExporter(Exporter):
    """Exporter that writes the map as well, last of all: a case that has one is complete.

    Args:
        predictor: asked for the members of the image whose logits are segmented.
        options: Exporter's.
    """

    def __init__(self, predictor: MembersPredictor, **options: Any) -> None:
        super().__init__(
            predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json, **options
        )
        self.predictor = predictor

    def segment(self, logits: Tensor, properties: dict) -> MeasuredPrediction:
        measured, dice = self.predictor.take_members().measure(logits, self.predictor.uncertainty)
        target = Target.of_image(self.plans, self.configuration, properties, logits.shape)
        uncertainty = resample_map(measured, target, self.n_threads)
        return MeasuredPrediction(
            **vars(super().segment(logits, properties)), uncertainty=uncertainty, expected_dice=dice.numpy()
        )

    def write(self, prediction: Prediction, target: Path) -> None:
        assert isinstance(prediction, MeasuredPrediction)
        file = map_file(target, self.predictor.uncertainty)
        with atomic_write(file) as draft:
            super().write(prediction, target)
            labels = Path(f"{target}{self.dataset['file_ending']}")
            segmentation = prediction.segmentation
            if segmentation is None:
                segmentation = self.plans.image_reader_writer_class().read_seg(str(labels))[0][0].astype(int)
            rows = list(self._measure_labels(target.name, segmentation, prediction))
            replace_rows(file.with_name(TABLE), target.name, rows)
            write_map(prediction.uncertainty, prediction.properties, labels, draft)

    def remove(self, target: Path) -> None:
        super().remove(target)
        file = map_file(target, self.predictor.uncertainty)
        file.unlink(missing_ok=True)
        replace_rows(file.with_name(TABLE), target.name, [])

    def _measure_labels(
        self, case: str, segmentation: np.ndarray, prediction: MeasuredPrediction
    ) -> Iterator[dict[str, str]]:
        """Yield a row for each label or region, background too where it is a label."""
        voxels, total = sum_by_label(segmentation, prediction.uncertainty, max(self.labels.all_labels) + 1)
        for (name, values), dice in zip(self._heads(), prediction.expected_dice, strict=True):
            n = int(voxels[list(values)].sum())
            cells = (
                "+".join(map(str, values)),
                name,
                str(n),
                f"{total[list(values)].sum() / n:.6g}" if n else "",
                f"{dice:.6g}" if np.isfinite(dice) else "",
            )
            yield dict(zip(COLUMNS, (case, *cells), strict=True))

    def _heads(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return name and values of the label or region of each of the network's outputs."""
        heads = []
        for name, value in self.dataset["labels"].items():
            values = tuple(int(v) for v in (value if isinstance(value, list | tuple) else [value]))
            if name != "ignore" and not (self.labels.has_regions and set(values) == {0}):
                heads.append((str(name), values))
        return heads if self.labels.has_regions else sorted(heads, key=lambda head: head[1])


def resample_map(values: Tensor, target: Target, n_threads: int | None = None) -> np.ndarray:
    """Return a map (x, y, z) on the image's grid and in its own order of axes, 0 outside of the crop box.

    It is resampled as probabilities are, but linearly where those take splines of a higher order.
    """
    own = target.resampling
    linear = replace(own, order=min(own.order, 1), order_z=min(own.order_z, 1))
    whole = np.zeros(target.shape, np.float32)
    interpolate(as_kernel_input(values), linear.interpolations(), whole[target.box], n_threads)
    return whole.transpose(target.transpose)


def sum_by_label(labels: np.ndarray, values: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of voxels of each label, and the sum of `values` over them. Shapes: (n_labels,)"""
    counts, total = np.zeros(n_labels, np.int64), np.zeros(n_labels)
    for plane, of_plane in zip(labels, values, strict=True):
        counts += np.bincount(plane.ravel(), minlength=n_labels)
        total += np.bincount(plane.ravel(), of_plane.ravel(), n_labels)
    return counts, total


def write_map(values: np.ndarray, properties: dict, labels: Path, file: Path) -> None:
    """Write a map, in the order of axes of nnU-Net's reader, with the header of the label map it wrote."""
    values = restore_orientation(values, properties)
    if len(read_header(labels).grid.size) == 2:
        values = values[0]
    write_like(np.ascontiguousarray(values), labels, file)
    check_complete(file)


def restore_orientation(values: np.ndarray, properties: dict) -> np.ndarray:
    """Return an array (z, y, x) in the file's order of axes, where nnU-Net's reader has turned it to RAS."""
    by_nibabel, by_itk = properties.get("nibabel_stuff", {}), properties.get("sitk_stuff", {})
    if "reoriented_affine" in by_nibabel:
        from nibabel import orientations

        own = orientations.io_orientation(by_nibabel["original_affine"])
        turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), own)
        return orientations.apply_orientation(values.T, turn).T
    if "original_orientation" in by_itk:
        image = sitk.GetImageFromArray(values)
        image.SetDirection(by_itk["direction"])
        return sitk.GetArrayFromImage(sitk.DICOMOrient(image, by_itk["original_orientation"]))
    return values


def replace_rows(table: Path, case: str, rows: Sequence[dict[str, str]]) -> None:
    """Replace the rows of a case in a table that other processes may be writing, too."""
    if not rows and not table.is_file():
        return
    with hold_lock(table.with_name(f".{table.name}.lock"), lambda line: None, wait=True):
        kept: list[dict[str, str]] = []
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as stream:
                kept = [row for row in csv.DictReader(stream) if row["case"] != case]
        with atomic_write(table) as draft, draft.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted([*kept, *rows], key=lambda row: row["case"]))
