"""Labels and regions to score, from a dataset.json of nnU-Net or by a user's choice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_mamba.nnunet.dataset_json import check_labels, get_label_values, normalize_name


@dataclass(frozen=True)
class Label:
    """Label, or region made of several: a voxel belongs to it if it holds one of `values`."""

    name: str
    values: tuple[int, ...]

    @property
    def number(self) -> str:
        """Return the label's value as tables show it; a region joins its values by +."""
        return "+".join(map(str, self.values))

    def mask(self, label_map: np.ndarray) -> np.ndarray:
        """Return True for the voxels that belong to the label. Shape: (*grid) integers -> (*grid) bool"""
        return label_map == self.values[0] if len(self.values) == 1 else np.isin(label_map, self.values)


def select_scored_labels(dataset_json: dict[str, Any]) -> tuple[tuple[Label, ...], int | None]:
    """Return the labels to score, and the value of the ignore label if there is one.

    Background (value 0) is not scored; voxels whose reference is the ignore label count in no metric.
    """
    labels = []
    for name, value in _labels(dataset_json).items():
        values = tuple(int(v) for v in (value if isinstance(value, list | tuple) else [value]))
        if name != "ignore" and values != (0,):
            labels.append(Label(str(name), values))
    if not labels:
        raise ValueError(
            f"dataset.json names no label to score; it has only {sorted(dataset_json['labels'])}."
        )
    ignore = dataset_json["labels"].get("ignore")
    return tuple(labels), None if ignore is None else int(ignore)


def _labels(dataset_json: dict[str, Any]) -> dict[str, Any]:
    """Return the labels of a dataset.json: name -> value or values. ValueError unless nnU-Net v2 wrote it."""
    labels: dict[str, Any] = dataset_json.get("labels", {})
    check_labels(labels, "dataset.json")
    return labels


def check_label_values(labels: Iterable[Label], dataset_json: dict[str, Any]) -> None:
    """Raise ValueError for labels and regions of values that the data set does not have."""
    known = known_values(dataset_json)
    for label in labels:
        if unknown := sorted(set(label.values) - known):
            raise ValueError(
                f"{label.name or label.number} has the value {unknown[0]}, which dataset.json does not name "
                f"({', '.join(map(str, sorted(known)))})."
            )


def known_values(dataset_json: dict[str, Any]) -> frozenset[int]:
    """Return every value that a voxel may have: background, labels, and the ignore label."""
    values: set[int] = {0}
    for value in _labels(dataset_json).values():
        values |= {int(v) for v in (value if isinstance(value, list | tuple) else [value])}
    return frozenset(values)


def find_numbering_differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return a text for each label that two dataset.json number differently.

    Names that differ by capitals and signs only are the same, unless two labels of a file differ by no more.
    """
    both_ordered = all(each.get("regions_class_order") for each in (first, second))
    tables = [_numbering(each, both_ordered) for each in (first, second)]
    key = (
        normalize_name
        if all(len({*map(normalize_name, table)}) == len(table) for table in tables)
        else str.casefold
    )
    one, two = ({key(name): text for name, text in table.items()} for table in tables)
    names = {key(name): name for table in reversed(tables) for name in table}
    return [
        f"{names[k]} is {one.get(k, 'not')} in the first and {two.get(k, 'not')} in the second"
        for k in dict.fromkeys([*one, *two])
        if one.get(k) != two.get(k)
    ]


def _numbering(dataset_json: dict[str, Any], with_order: bool) -> dict[str, str]:
    """Return the value of each label; of regions also the value that nnU-Net writes, if `with_order`."""
    values = {
        str(name): sorted({*map(int, value if isinstance(value, list | tuple) else [value])})
        for name, value in _labels(dataset_json).items()
    }
    table = {name: "+".join(map(str, each)) for name, each in values.items()}
    if with_order and any(len(each) > 1 for each in values.values()):
        regions = [name for name, each in values.items() if name != "ignore" and each != [0]]
        order = dataset_json.get("regions_class_order") or ()
        table |= {
            name: f"{table[name]} (written as {value})" for name, value in zip(regions, order, strict=False)
        }
    return table


def find_contradictions(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return a text for each label that two dataset.json of any form share and number differently."""
    ours, theirs = get_label_values(first), get_label_values(other)
    return [
        f"{name} is {value} in the first and {theirs[name]} in the second"
        for name, value in ours.items()
        if theirs.get(name, value) != value
    ]


def labels_of_values(values: Iterable[int]) -> tuple[Label, ...]:
    """Return labels without names, one for each value but 0."""
    return tuple(Label("", (value,)) for value in sorted(values) if value)


def choose_labels(labels: Sequence[Label], words: Sequence[str]) -> tuple[Label, ...]:
    """Return the labels named by number or name; if `labels` is empty, a label for each number."""
    chosen = []
    for word in words:
        found = [label for label in labels if word in (label.number, label.name)]
        if not found and (labels or not word.isdecimal()):
            known = ", ".join(f"{label.number} {label.name}" for label in labels)
            raise ValueError(
                f"There is no label {word!r}; expected {known or 'numbers without a dataset.json'}."
            )
        chosen.append(found[0] if found else Label("", (int(word),)))
    return tuple(chosen)


def parse_region(text: str) -> Label:
    """Return the region that "NAME=1+2+3" stands for."""
    name, _, values = text.partition("=")
    if not name or not all(value.isdecimal() for value in values.split("+")):
        raise ValueError(f"{text!r} is not a region; expected NAME=1+2+3.")
    return Label(name, tuple(int(value) for value in values.split("+")))
