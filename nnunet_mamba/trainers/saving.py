"""Checkpoints that survive a kill, a full disk and a power cut: written under another name, then renamed.

The last but one `checkpoint_latest.pth` stays as `checkpoint_previous.pth`, in case a disk keeps less than it
promised.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_mamba.io.atomic import atomic_write

FINAL, LATEST, PREVIOUS = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_previous.pth"
BEST = "checkpoint_best.pth"


@contextmanager
def replacing(checkpoint: Path) -> Iterator[Path]:
    """Yield the name to write to; the file is on the disk, as `checkpoint`, when the block has ended.

    If the block or the disk fails, the files of before are as they were.
    """
    with atomic_write(checkpoint) as draft:
        yield draft
        _flush(draft)
        if checkpoint.name == LATEST and checkpoint.exists():
            keep(checkpoint, checkpoint.with_name(PREVIOUS))
    _flush_folder(checkpoint.parent)


def keep(file: Path, name: Path) -> None:
    """Let `name` stand for what `file` holds, without a copy: a second name of the same data.

    Where the file system has no such links, `file` itself moves, and is absent until its successor comes;
    `restore_previous` knows that state.
    """
    link = file.with_name(f".partial-{name.name}")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(file)
        link.replace(name)
    except (OSError, NotImplementedError):
        file.replace(name)
    finally:
        link.unlink(missing_ok=True)  # of two names for the same data `replace` leaves both


def restore_previous(folder: Path) -> None:
    """Undo a `keep` after which no successor came: nnU-Net's --c knows the name `checkpoint_latest` only."""
    latest, previous = folder / LATEST, folder / PREVIOUS
    if previous.exists() and not latest.exists() and not (folder / FINAL).exists():
        previous.replace(latest)


def forget_previous(folder: Path) -> None:
    """What nnU-Net does to `checkpoint_latest` when a training has ended."""
    (folder / PREVIOUS).unlink(missing_ok=True)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """The rename itself, too, where the system can open folders (Windows cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
