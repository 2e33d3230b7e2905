"""Checkpoints that survive a kill, a full disk and a power cut: written under another name, then renamed.

The last but one `checkpoint_latest.pth` stays as `checkpoint_previous.pth`, in case the disk loses what it
has reported as written.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.networks.finite import is_finite
from nnunet_mamba.nnunet.checkpoints import BEST, FINAL, LATEST, PREVIOUS


@contextmanager
def atomic_checkpoint(checkpoint: Path) -> Iterator[Path]:
    """Yield the name to write to; when the block has ended, the file is on the disk as `checkpoint`.

    If the block or the disk fails, the files are as they were before.
    """
    with atomic_write(checkpoint) as draft:
        yield draft
        _flush(draft)
        if checkpoint.name == LATEST and checkpoint.exists():
            link_previous(checkpoint, checkpoint.with_name(PREVIOUS))
    _flush_folder(checkpoint.parent)


def link_previous(file: Path, previous: Path) -> None:
    """Make `previous` a hard link to `file`: a second name of the same data, no copy.

    If the file system has no hard links, `file` itself is renamed, and is absent until its successor is
    written; `restore_previous` handles that state.
    """
    link = file.with_name(f".partial-{previous.name}")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(file)
        link.replace(previous)
    except (OSError, NotImplementedError):
        file.replace(previous)
    finally:
        link.unlink(missing_ok=True)  # `replace` keeps both of two names for the same data


def restore_previous(folder: Path) -> None:
    """Undo a `link_previous` without a successor: nnU-Net's --c knows the name `checkpoint_latest` only."""
    latest, previous = folder / LATEST, folder / PREVIOUS
    if previous.exists() and not latest.exists() and not (folder / FINAL).exists():
        previous.replace(latest)


def remove_previous(folder: Path) -> None:
    """Remove `checkpoint_previous`, as nnU-Net removes `checkpoint_latest`, after a training."""
    (folder / PREVIOUS).unlink(missing_ok=True)


def suggest_checkpoint(broken: Path) -> str:
    """Return a sentence on how to resume where the checkpoint `broken` cannot be used."""
    for name in (PREVIOUS, LATEST, BEST, FINAL):
        other = broken.with_name(name)
        if other != broken and other.is_file() and _has_finite_numbers(other):
            return f"{name} beside it is usable: copy it over {broken.name}, then run the same command again."
    return "No usable checkpoint in this folder: train again, without --c."


def _has_finite_numbers(checkpoint: Path) -> bool:
    try:
        content = load_restricted(checkpoint)
        state = content["optimizer_state"]["state"].values()
        return is_finite([*content["network_weights"].values(), *(list(one.values()) for one in state)])
    except (ValueError, LookupError, AttributeError, TypeError):  # not a checkpoint that nnU-Net wrote
        return False


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Write the rename itself to the disk, too, where the system can open folders (Windows cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
