"""Channels and labels of dataset.json: nnU-Net's, and those of the Decathlon and nnU-Net v1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REQUIRED_KEYS = {"labels", "file_ending"}  # in every dataset.json of nnU-Net v2


def read_dataset_json(dataset_json: Path) -> dict[str, Any]:
    """Return the content of nnU-Net's dataset.json. ValueError if the file is not one."""
    description = read_json(dataset_json)
    if not isinstance(description, dict):
        raise ValueError(f"{dataset_json} is not a dataset.json: it holds a {type(description).__name__}.")
    if missing := REQUIRED_KEYS - set(description):
        raise ValueError(
            f"{dataset_json} is not a dataset.json of nnU-Net v2: it lacks {', '.join(sorted(missing))}."
        )
    return description


def read_json(file: Path) -> Any:
    """Return the content of a JSON file. ValueError if it is not one."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a dataset.json ({error}).") from error


def is_dataset_json(file: Path) -> bool:
    """Return True for a dataset.json of nnU-Net v2, False for other JSON. ValueError for other files."""
    content = read_json(file)
    return isinstance(content, dict) and set(content) >= REQUIRED_KEYS


def get_channels(description: Mapping[str, Any]) -> Any:
    """Return the channels by their numbers; nnU-Net also reads v1's word for them. None without any."""
    return description.get("channel_names", description.get("modality"))


def sort_channels(channels: Mapping[Any, Any], where: Path | str) -> dict[str, str]:
    """Return channel_names sorted by number: nnU-Net pairs files and normalisation with them by their order.

    ValueError for keys that are no numbers, or name one channel twice.
    """
    try:
        numbered = {int(number): str(name) for number, name in channels.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f'The channels in {where} are {channels!r}; expected {{"0": "T1", "1": "T2", ...}}.'
        ) from error
    if len(numbered) < len(channels):
        raise ValueError(f"The channels in {where} are {channels!r}: a number occurs twice.")
    return {str(number): numbered[number] for number in sorted(numbered)}


def check_labels(labels: Any, where: Path | str) -> None:
    """Raise ValueError unless `labels` are nnU-Net's: name -> value, or a list of values for a region."""
    wanted = 'expected {"background": 0, "liver": 1, ...}, a list of values for a region'
    if not isinstance(labels, Mapping):
        raise ValueError(f"The labels in {where} are {labels!r}; {wanted}.")
    for name, value in labels.items():
        for v in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(v, int):
                turned = " nnU-Net v1 mapped value to name: swap them." if str(name).isdecimal() else ""
                raise ValueError(f"In {where} the label {name!r} is {v!r}; {wanted}.{turned}")


def is_legacy_dataset_json(description: Mapping[str, Any]) -> bool:
    """Return whether a dataset.json is the Decathlon's or nnU-Net v1's, as releases include them."""
    return "modality" in description or "training" in description


def get_label_values(description: Mapping[str, Any]) -> dict[str, int]:
    """Return normalized name -> value of every single label, without regions.

    Number and name may be swapped, as nnU-Net v1 and the Decathlon have them: {"labels": {"1": "liver"}}.
    """
    found = {}
    labels = description.get("labels")
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        name, number = (value, key) if str(key).isdecimal() else (key, value)
        if isinstance(name, str) and str(number).isdecimal():
            found[normalize_name(name)] = int(number)
    return found


def normalize_name(name: str) -> str:
    """Return a name without signs and capitals, in American spelling."""
    return "".join(filter(str.isalnum, name.casefold())).replace("tumour", "tumor")
