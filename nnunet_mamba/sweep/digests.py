"""Has a file or dataset changed? Digests that are quick to compute, of what nnU-Net's results depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

TAIL = 64  # bytes; the last eight of a .gz are a checksum and the length of all that is in it
TRAINING_DATA = ("imagesTr", "labelsTr")
UNIMPORTANT = ("numTraining", "nnunet_mamba")  # keys of dataset.json that a new split rewrites


def digest(paths: Iterable[Path]) -> str:
    """Of files and folders together, 16 hexadecimal digits; what does not exist counts as such.

    A small file (.json) counts by its content, a dataset (a folder with dataset.json) by its description, its
    split and its training data, any other folder by the files in it. Of files in folders count name, size and
    end.
    """
    text = "\n".join(line for path in paths for line in _lines(Path(path)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(path: Path) -> Iterator[str]:
    if (path / "dataset.json").is_file():
        yield from _dataset(path)
    elif path.is_dir():
        yield from _files(path)
    elif path.is_file():
        yield f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    else:
        yield f"no {path.name}"


def _dataset(folder: Path) -> Iterator[str]:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    yield json.dumps({k: v for k, v in description.items() if k not in UNIMPORTANT}, sort_keys=True)
    yield from _lines(folder / "splits_final.json")
    for name in TRAINING_DATA:
        if (folder / name).is_dir():
            yield from _files(folder / name)


def _files(folder: Path) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_file() and not entry.name.startswith("."):
            size = entry.stat().st_size
            with Path(entry.path).open("rb") as stream:
                stream.seek(max(0, size - TAIL))
                yield f"{entry.name} {size} {stream.read().hex()}"
