"""Has a file or dataset changed? Digests that are quick to compute, of what nnU-Net's results depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

CHECKED = {".gz": 8, ".png": 16}  # where a checksum of the content is, in bytes from the end
TRAINING_DATA = ("imagesTr", "labelsTr")
UNIMPORTANT = ("numTraining", "nnunet_mamba")  # keys of dataset.json that a new split rewrites


def digest(paths: Iterable[Path]) -> str:
    """Of files and folders together, 16 hexadecimal digits; what does not exist counts as such.

    A dataset (a folder with dataset.json) counts by its description and its training data, any other folder
    by the files in it, JSON by what it says. Compressed files count by name, size and end, where they have a
    checksum of their own, others by their whole content.
    """
    text = "\n".join(line for path in paths for line in _lines(Path(path)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(path: Path) -> Iterator[str]:
    if (path / "dataset.json").is_file():
        yield from _dataset(path)
    elif path.is_dir():
        yield from _files(path)
    elif path.is_file():
        yield _file(path)
    else:
        yield f"no {path.name}"


def _dataset(folder: Path) -> Iterator[str]:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    yield json.dumps({k: v for k, v in description.items() if k not in UNIMPORTANT}, sort_keys=True)
    for name in TRAINING_DATA:
        if (folder / name).is_dir():
            yield from _files(folder / name)


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield _file(path)


def _file(path: Path) -> str:
    if path.suffix == ".json":
        return f"{path.name} {_said(path)}"
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - CHECKED[path.suffix]) if path.suffix in CHECKED else 0)
        return f"{path.name} {size} {hashlib.sha256(stream.read()).hexdigest()}"


def _said(path: Path) -> str:
    """What a JSON file says, however it is laid out."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text
