"""Version of nnU-Net that this package needs, and the folder in which it looks for trainers.

Installed files are looked at only; nnU-Net itself, seconds to import, is not loaded.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# external trainers came with 2.8; the trainer contract may change with the next minor
SUPPORTED_RELEASE = (2, 8)


def get_installed_version(package: str) -> str | None:
    """Return the version of an installed package, None without one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def get_nnunet_version() -> str | None:
    """Return the version of the installed nnunetv2, None without one."""
    return get_installed_version("nnunetv2")


def find_version_problem() -> str | None:
    """Return what is wrong with the installed nnunetv2, in one line with the fix; None if it is supported."""
    found = get_nnunet_version()
    major, minor = SUPPORTED_RELEASE
    if found is not None and tuple(found.split(".")[:2]) == (str(major), str(minor)):
        return None
    state = "none is installed" if found is None else f"{found} is installed"
    return (
        f"nnunet_mamba needs nnunetv2 >= {major}.{minor}.0 and < {major}.{minor + 1}, but {state}; "
        f"run: pip install 'nnunetv2>={major}.{minor}.0,<{major}.{minor + 1}'"
    )


def find_trainer_folder() -> Path:
    """Return the folder of the installed nnunetv2 in which its trainer search looks first."""
    spec = find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(find_version_problem() or "nnunetv2 has no folder on disk; reinstall it with pip.")
    return Path(spec.submodule_search_locations[0], "training", "nnUNetTrainer")
