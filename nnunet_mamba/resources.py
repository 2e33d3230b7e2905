"""Where the folders that stand beside the library are: inside it in a wheel, next to it in a checkout."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def resource_dir(name: str) -> Path:
    """The folder `name` ("nnUNet_trainers" or "plans_templates") of this installation."""
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name} is missing from {PACKAGE}; reinstall nnunet_mamba.")
