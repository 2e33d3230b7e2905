"""Plans files of nnU-Net: reading, resolving configurations, and atomic writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_text


def read_json_object(path: Path, fix: str) -> dict[str, Any]:
    """Read the object in a JSON file. ValueError, which ends with `fix`, if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist. {fix}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). {fix}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object. {fix}")
    return content


def read_dataset_plans(folder: Path, plans_name: str) -> dict[str, Any]:
    """Read the plans `plans_name` in a dataset's folder. ValueError if they are missing or invalid."""
    fix = "Plan the dataset first: nnUNetv2_plan_and_preprocess -d ID."
    plans = read_json_object(folder / f"{plans_name}.json", fix)
    if not isinstance(plans.get("configurations"), dict):
        raise ValueError(f"{folder / plans_name}.json has no configurations. {fix}")
    return plans


def resolve(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with all that it inherits. ValueError if nnU-Net cannot resolve it."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    try:
        return dict(PlansManager(deepcopy(dict(plans))).get_configuration(name).configuration)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"Configuration {name} of the plans cannot be resolved: {error}") from error


def check_plans_name(name: str) -> None:
    """Raise ValueError for a name that nnU-Net's folders TRAINER__PLANS__CONFIGURATION cannot contain."""
    if not name or "__" in name or name.strip("_") != name or Path(name).name != name:
        raise ValueError(
            f"{name!r} cannot name plans: expected a file name without ending, slash, double underscore, or "
            f"underscore at its ends, for nnU-Net splits TRAINER__PLANS__CONFIGURATION at `__`."
        )


def write_plans(folder: Path, plans: Mapping[str, Any], *, replace: bool) -> Path:
    """Write plans atomically to the file of their name in `folder`, and return its path.

    ValueError if a file of that name holds other plans, unless `replace`.
    """
    name = plans["plans_name"]
    check_plans_name(name)
    path = folder / f"{name}.json"
    text = json.dumps(plans, indent=4) + "\n"
    if path.exists() and not replace and read_json_object(path, "Remove it.") != json.loads(text):
        raise ValueError(
            f"{path} holds other plans. Choose another name (--name), or overwrite them (--replace): models "
            f"trained on them keep a copy."
        )
    write_text(path, text)
    return path
