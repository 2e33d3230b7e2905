"""Atomic writes: a file or folder is complete or does not exist."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling of `folder` to fill; it is renamed to `folder` when the block ends without
    error.

    A writer that fails leaves nothing, a killed one at most the sibling, which the next attempt removes.
    FileExistsError if `folder` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it, or choose another place.")
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    missing = [parent for parent in draft.parents if not parent.exists()]
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):  # not empty: another writer has come
            for parent in missing:
                parent.rmdir()
        raise


@contextmanager
def atomic_write(file: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a sibling of `file` to write; it replaces `file` when the block ends without error.

    The sibling has the same ending. `shared`: other processes may be writing the file too, so each has its
    own.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}-" if shared else ""
    draft = file.with_name(f".partial-{own}{file.name}")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_text(file: Path, text: str, *, shared: bool = False) -> None:
    """Write a text file (UTF-8) atomically; `shared` as for `atomic_write`."""
    with atomic_write(file, shared=shared) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any, *, shared: bool = False) -> None:
    """Write a JSON file atomically; `shared` as for `atomic_write`."""
    write_text(file, json.dumps(content, indent=1) + "\n", shared=shared)
