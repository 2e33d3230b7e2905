"""What an interrupted run left behind: which of it can be built on, and which is half a file."""

import json
import zipfile
import zlib
from pathlib import Path

from nnunet_mamba.nnunet.console import LogFn

FINAL, LATEST, PREVIOUS, BEST = (f"checkpoint_{name}.pth" for name in ("final", "latest", "previous", "best"))


def usable_checkpoint(fold: Path, log: LogFn) -> Path | None:
    """The checkpoint that nnU-Net's --c will load; damaged ones are put aside first.

    Our trainers keep the one before the latest: where the latest is no good, it takes that name, since --c
    knows the final, the latest and the best one only.
    """
    for file in (fold / name for name in (FINAL, LATEST, PREVIOUS, BEST)):
        if not file.is_file():
            continue
        if fault := checkpoint_fault(file):
            file.rename(free_name(file.with_suffix(".incomplete")))
            log(f"{file.name} {fault} and is put aside")
        elif file.name == PREVIOUS:
            log(f"{PREVIOUS} takes the place of {LATEST}")
            return file.rename(fold / LATEST)
        else:
            return file
    return None


def checkpoint_fault(file: Path) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence about it; None if it is whole.

    A checkpoint is a zip archive, whose directory comes last: without it the file was not finished. PyTorch
    loads parts that were damaged without a word; their checksums tell (0.1 s for 300 MB).
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        return "was not written to its end"
    except (zlib.error, EOFError, NotImplementedError, RuntimeError):
        damaged = file.name
    return f"is damaged (in {damaged})" if damaged else None


def validated(fold: Path) -> bool:
    """Whether the validation after the training was finished: its summary is written last."""
    try:
        return "foreground_mean" in json.loads((fold / "validation" / "summary.json").read_text())
    except (OSError, ValueError):
        return False


def free_name(path: Path) -> Path:
    """The path itself, or with .2, .3 and so on behind it, whichever is not taken."""
    names = (path, *(path.with_name(f"{path.name}.{n}") for n in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def drop_unreadable(folder: Path, log: LogFn) -> None:
    """Remove predictions that were cut short, which --continue_prediction would take for done."""
    from nnunet_mamba.io.images import is_image, require_readable  # half a second to import

    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if not (file.is_file() and is_image(file)):
            continue
        try:
            require_readable(file)
        except ValueError:
            file.unlink()
            log(f"{file.name} was not written to its end and is predicted again")
