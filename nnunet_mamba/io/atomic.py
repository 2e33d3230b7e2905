"""Writing folders and files so that they are either complete or absent."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling of `folder` to fill; it takes the name `folder` only if nothing went wrong.

    An interrupted writer leaves at most the sibling, which the next attempt clears.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it, or choose another place.")
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a sibling of `file`, with its ending, to write; it replaces `file` only if nothing went wrong."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".partial-{file.name}")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Replace `file` as a whole."""
    with atomic_write(file) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    """Replace `file` as a whole."""
    write_text(file, json.dumps(content, indent=1) + "\n")
