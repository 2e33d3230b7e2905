"""Checksums of files and folders, quick to compute where a format has one of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

CHECKED = {".gz": 8, ".png": 16}  # formats that end with a checksum of their content, and its bytes
TRAINING_DATA = ("imagesTr", "labelsTr")
UNIMPORTANT = ("numTraining", "nnunet_mamba")  # keys of dataset.json that a new split rewrites


def compute_checksum(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits for files and folders together; a missing one counts as missing.

    A dataset (a folder with dataset.json) counts by its description and its training data, any other folder
    by the files in it, JSON by its values. Compressed files count by name, size and end, where they have a
    checksum of their own, others by their whole content.
    """
    text = "\n".join(line for path in paths for line in _describe(Path(path)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(path: Path) -> Iterator[str]:
    if (path / "dataset.json").is_file():
        yield from _describe_dataset(path)
    elif path.is_dir():
        yield from _describe_files(path)
    elif path.is_file():
        yield _describe_file(path)
    else:
        yield f"no {path.name}"


def _describe_dataset(folder: Path) -> Iterator[str]:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    yield json.dumps({k: v for k, v in description.items() if k not in UNIMPORTANT}, sort_keys=True)
    for name in TRAINING_DATA:
        if (folder / name).is_dir():
            yield from _describe_files(folder / name)


def _describe_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield _describe_file(path)


def _describe_file(path: Path) -> str:
    if path.suffix == ".json":
        return f"{path.name} {_normalise_json(path)}"
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - CHECKED[path.suffix]) if path.suffix in CHECKED else 0)
        return f"{path.name} {size} {hashlib.sha256(stream.read()).hexdigest()}"


def _normalise_json(path: Path) -> str:
    """Return the values of a JSON file as text, independent of its layout."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text
