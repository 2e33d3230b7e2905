"""What is scored: the foreground labels or regions of an nnU-Net dataset.json, and what is left out."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Label:
    """A label, or a region made of several: a voxel belongs to it if it holds one of `values`."""

    name: str
    values: tuple[int, ...]

    @property
    def number(self) -> str:
        """The label's value as tables show it; a region joins its values by +."""
        return "+".join(map(str, self.values))

    def mask(self, label_map: np.ndarray) -> np.ndarray:
        """(*grid) integers -> (*grid) bool"""
        return np.isin(label_map, self.values)


def scored_labels(dataset_json: dict[str, Any]) -> tuple[tuple[Label, ...], int | None]:
    """The labels to score, and the value of the ignore label if there is one.

    Background (value 0) is not scored; voxels whose reference is the ignore label count in no metric.
    """
    labels = []
    for name, value in dataset_json["labels"].items():
        values = tuple(int(v) for v in (value if isinstance(value, list | tuple) else [value]))
        if name != "ignore" and values != (0,):
            labels.append(Label(str(name), values))
    if not labels:
        raise ValueError(
            f"dataset.json names no label to score; it has only {sorted(dataset_json['labels'])}."
        )
    ignore = dataset_json["labels"].get("ignore")
    return tuple(labels), None if ignore is None else int(ignore)
