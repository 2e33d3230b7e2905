"""What an interrupted run left behind: which of it can be built on, and which is half a file."""

import zipfile
from pathlib import Path

from nnunet_mamba.images import read_image
from nnunet_mamba.running.progress import Say

# as --c prefers them; for want of a latest, our trainers give that name to the one before
CHECKPOINTS = (
    "checkpoint_final.pth",
    "checkpoint_latest.pth",
    "checkpoint_previous.pth",
    "checkpoint_best.pth",
)


def usable_checkpoint(fold: Path, say: Say) -> Path | None:
    """The checkpoint that nnU-Net's --c will load; one that was cut short in writing is put aside first.

    A checkpoint is a zip archive, whose directory comes last: without it the file is not whole.
    """
    for file in (fold / name for name in CHECKPOINTS):
        if not file.is_file():
            continue
        if zipfile.is_zipfile(file):
            return file
        file.rename(file.with_suffix(".incomplete"))
        say(f"{file.name} was not written to its end and is put aside")
    return None


def drop_unreadable(folder: Path, say: Say) -> None:
    """Remove predictions that were cut short, which --continue_prediction would take for done."""
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json" or not file.is_file():
            continue
        try:
            read_image(file)
        except ValueError:
            file.unlink()
            say(f"{file.name} was not written to its end and is predicted again")
