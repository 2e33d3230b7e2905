"""Plans files of nnU-Net: found by dataset, checked by name, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.nnunet import paths


def dataset_folder(dataset: str) -> Path:
    """Return the folder in nnUNet_preprocessed of a dataset, by its number, name or folder.

    ValueError if nnU-Net's variable is not set, or if there is no such folder, or more than one.
    """
    remedy = f"nnUNetv2_extract_fingerprint -d {dataset} makes it."
    return paths.find_dataset("nnUNet_preprocessed", dataset, remedy)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file. ValueError, which ends with `remedy`, if there is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist. {remedy}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object. {remedy}")
    return content


def read_dataset_plans(folder: Path, plans_name: str) -> dict[str, Any]:
    """The plans `plans_name` of a dataset's folder. ValueError if they are missing or no plans."""
    remedy = "Plan the dataset first: nnUNetv2_plan_and_preprocess -d ID."
    plans = read_json(folder / f"{plans_name}.json", remedy)
    if not isinstance(plans.get("configurations"), dict):
        raise ValueError(f"{folder / plans_name}.json has no configurations. {remedy}")
    return plans


def resolve(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with all that it inherits. ValueError if nnU-Net cannot resolve it."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    try:
        return dict(PlansManager(deepcopy(dict(plans))).get_configuration(name).configuration)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"Configuration {name} of the plans cannot be resolved: {error}") from error


def channels_and_classes(plans: Mapping[str, Any], name: str, dataset: Mapping[str, Any]) -> tuple[int, int]:
    """Input and output channels of a configuration, as nnU-Net counts them; `dataset` is its dataset.json."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(deepcopy(dict(plans)))
    channels = determine_num_input_channels(manager, manager.get_configuration(name), dataset)
    return int(channels), int(manager.get_label_manager(dataset).num_segmentation_heads)


def check_plans_name(name: str) -> None:
    """ValueError for names that nnU-Net's folders TRAINER__PLANS__CONFIGURATION cannot hold."""
    if not name or "__" in name or name.strip("_") != name or Path(name).name != name:
        raise ValueError(
            f"{name!r} cannot name plans: expected a file name without ending, slash, double underscore, or "
            f"underscore at its ends, for nnU-Net splits TRAINER__PLANS__CONFIGURATION at `__`."
        )


def write_plans(folder: Path, plans: Mapping[str, Any], *, replace: bool) -> Path:
    """Write plans to the file of their name in `folder`, whole or not at all, and return it.

    ValueError if a file of that name holds other plans, unless `replace`.
    """
    name = plans["plans_name"]
    check_plans_name(name)
    path = folder / f"{name}.json"
    text = json.dumps(plans, indent=4) + "\n"
    if path.exists() and not replace and read_json(path, "Remove it.") != json.loads(text):
        raise ValueError(
            f"{path} holds other plans. Choose another name (--name), or overwrite them (--replace): models "
            f"trained on them keep a copy."
        )
    write_text(path, text)
    return path
