"""Checkpoints and predictions of nnU-Net: their names, and which files an interrupted run finished."""

import json
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import Any

from nnunet_mamba.nnunet.console import LogFn

FINAL, BEST, LATEST = CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
PREVIOUS = "checkpoint_previous.pth"  # our trainers' own: the latest but one


def recover_checkpoint(fold: Path, log: LogFn) -> Path | None:
    """Return the checkpoint that nnU-Net's --c will load, None without one; damaged ones are renamed first.

    Our trainers keep the one before the latest: where the latest is damaged, it takes that name, since --c
    knows the final, the latest and the best one only.
    """
    for file in (fold / name for name in (FINAL, LATEST, PREVIOUS, BEST)):
        if not file.is_file():
            continue
        if problem := find_damage(file):
            file.rename(find_free_name(file.with_suffix(".incomplete")))
            log(f"{file.name} {problem} and is renamed")
        elif file.name == PREVIOUS:
            log(f"{PREVIOUS} is used as {LATEST}")
            return file.rename(fold / LATEST)
        else:
            return file
    return None


def find_damage(file: Path) -> str | None:
    """Return what is wrong with a checkpoint, as the end of a sentence about it; None if it is complete.

    A checkpoint is a zip archive, whose directory comes last: without it the file was not finished. PyTorch
    loads damaged parts without an error; their checksums tell (0.1 s for 300 MB).
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        return "was not written to its end"
    except (zlib.error, EOFError, NotImplementedError, RuntimeError):
        damaged = file.name
    return f"is damaged (in {damaged})" if damaged else None


def is_validated(fold: Path) -> bool:
    """Return whether the validation after a training was finished: its summary is written last."""
    return "foreground_mean" in _read_summary(fold)


def read_validated_cases(fold: Path, file_ending: str) -> frozenset[str] | None:
    """Return the names of the cases in the summary of a fold's validation, None without a usable one."""
    try:
        files = [case["prediction_file"] for case in _read_summary(fold)["metric_per_case"]]
        # nnU-Net writes paths, which have backslashes if Windows wrote them
        return frozenset(PureWindowsPath(file).name.removesuffix(file_ending) for file in files)
    except (KeyError, TypeError):
        return None


def _read_summary(fold: Path) -> dict[str, Any]:
    """Return the summary of a fold's validation, {} where it is missing or no JSON object."""
    try:
        content = json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_free_name(path: Path) -> Path:
    """Return the path itself, or with .2, .3 and so on behind it, whichever does not exist."""
    names = (path, *(path.with_name(f"{path.name}.{n}") for n in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def remove_unreadable_predictions(folder: Path, log: LogFn) -> None:
    """Remove predictions that were cut short, which --continue_prediction would not predict again."""
    from nnunet_mamba.io.images import check_readable, is_image  # half a second to import

    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if not (file.is_file() and is_image(file)):
            continue
        try:
            check_readable(file)
        except ValueError:
            file.unlink()
            log(f"{file.name} was not written to its end and is predicted again")
