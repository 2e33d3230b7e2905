"""Registration of our trainers: one small file in the installed nnunetv2, written and removed.

nnU-Net finds trainers in its own folder, or in those that the variable nnUNet_extTrainer names. With the file
written by `register` the plain commands work in every shell, with no variable set. The file holds no code of
ours: it imports this package, and lets nnU-Net go on if the package has gone or does not support a newer
nnU-Net, so that stock trainers never suffer from a forgotten `unregister`.
"""

from pathlib import Path

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.nnunet.version import find_trainer_folder, find_version_problem

SHIM_NAME = "nnunet_mamba_trainers"
MARK = "# Written by `nnunet-mamba register`, removed by `nnunet-mamba unregister`.\n"
SHIM = (
    MARK
    + """\
try:
    from nnunet_mamba.trainers import *  # noqa: F403
    from nnunet_mamba.trainers import __getattr__  # noqa: F401 (suggests a name where none is found)
except ImportError as error:
    if error.name == "nnunetv2":  # of a version that nnunet_mamba does not support
        import warnings

        warnings.warn(str(error))
    elif error.name not in ("nnunet_mamba", "nnunet_mamba.trainers"):  # something else is missing: say so
        raise
"""
)


def shim_path() -> Path:
    """Return the path of the file, written or not."""
    return find_trainer_folder() / f"{SHIM_NAME}.py"


def is_registered() -> bool:
    """Return whether the file exists and is ours."""
    path = shim_path()
    return path.is_file() and path.read_text(encoding="utf-8").startswith(MARK)


def register_trainers() -> Path:
    """Write the file, atomically since nnU-Net may be searching the folder, and return its path.

    ValueError for an nnU-Net that is not supported; PermissionError, FileExistsError.
    """
    if problem := find_version_problem():
        raise ValueError(problem)
    path = shim_path()
    _check_ours(path)
    if not (path.is_file() and path.read_text(encoding="utf-8") == SHIM):
        _write(path)
    return path


def unregister_trainers() -> Path | None:
    """Remove the file and its compiled copies; return its path, None if there was none."""
    path = shim_path()
    _check_ours(path)
    found = path.is_file()
    try:
        path.unlink(missing_ok=True)
        for compiled in (path.parent / "__pycache__").glob(f"{SHIM_NAME}.*.pyc"):
            compiled.unlink(missing_ok=True)
    except OSError as error:
        raise PermissionError(
            f"Could not remove {path} ({error.strerror}). "
            "Run `nnunet-mamba unregister` as the user who owns it."
        ) from error
    return path if found else None


def _check_ours(path: Path) -> None:
    if path.exists() and not is_registered():
        raise FileExistsError(
            f"{path} exists and was not written by `nnunet-mamba register`; it stays as it is. "
            "Move it away if you do not need it, then run the command again."
        )


def _write(path: Path) -> None:
    try:
        with atomic_write(path, shared=True) as draft:
            draft.write_text(SHIM, encoding="utf-8")
            draft.chmod(0o644)  # for all users of this nnunetv2, whatever the umask
    except OSError as error:
        raise PermissionError(
            f"Could not write into {path.parent} ({error.strerror}). "
            "Register as the user who installed nnunetv2, "
            'or leave nnU-Net alone and set: export nnUNet_extTrainer="$(nnunet-mamba trainers-path)"'
        ) from error
