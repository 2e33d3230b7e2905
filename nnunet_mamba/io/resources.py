"""Folders of data beside the library: inside the package in a wheel, next to it in a checkout."""

import shlex
from pathlib import Path

from nnunet_mamba.io.messages import format_unknown_name

PACKAGE = Path(__file__).parents[1]


def resource_dir(name: str) -> Path:
    """Return the folder `name` ("nnUNet_trainers" or "plans_templates") of this installation."""
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name} is missing from {PACKAGE}; reinstall nnunet_mamba.")


def template_names() -> list[str]:
    """Return the names of the plans templates."""
    return sorted(file.stem for file in resource_dir("plans_templates").glob("*.json"))


def template_file(given: str) -> Path:
    """Return the file of a plans template by its name, or the file (.json) that is given.

    ValueError for unknown names.
    """
    if given.endswith(".json") and Path(given).is_file():
        return Path(given)
    if given not in template_names():
        raise ValueError(format_unknown_name("plans template", given, template_names()))
    return resource_dir("plans_templates") / f"{given}.json"


def check_device(given: str) -> None:
    """Raise ValueError unless estimates can be made for a device: its profile (.json), or the name of one."""
    known = sorted({"cuda", *(file.stem for file in (PACKAGE / "memory" / "profiles").glob("*.json"))})
    if given.endswith(".json") and not Path(given).is_file():
        command = shlex.join(("nnunet-mamba", "estimate", "--measure", given))
        raise ValueError(f"{given} does not exist; `{command}` makes it.")
    if not given.endswith(".json") and given not in known:
        raise ValueError(
            f"{format_unknown_name('device', given, known)} Or measure one on the device itself: "
            "nnunet-mamba estimate --measure NAME.json, then --device NAME.json."
        )
