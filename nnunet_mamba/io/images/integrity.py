"""Checks for files that are damaged or cut short."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, TypeVar

CHUNK = 1 << 22  # bytes
T = TypeVar("T")


def read_or_raise(file: Path, read: Callable[[], T]) -> T:
    """Return what `read` returns. ValueError, with the file's name, if it fails."""
    try:
        return read()
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist.") from error
    except Exception as error:  # damaged files make readers raise anything, from struct.error to TypeError
        reason = " ".join(str(error).split("\n")[-1].split()) or type(error).__name__
        raise ValueError(
            f"{file} cannot be read as an image ({reason}). Download it again, or remove the case."
        ) from error


def check_complete(file: Path) -> None:
    """Raise ValueError for a NIfTI or compressed file that is damaged or cut short, without reading it as an
    image."""
    read_or_raise(Path(file), lambda: _check_size(Path(file)))


def check_ended(file: Path) -> None:
    """Raise ValueError for a NIfTI file that was not written to its end, which its last bytes tell."""
    read_or_raise(Path(file), lambda: _check_end(Path(file)))


def is_nifti(file: Path) -> bool:
    return Path(file).name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(file: Path) -> Any:
    """Return nibabel's image of a NIfTI file, of which only the header is read; axes (x, y, ...)."""
    import nibabel

    return nibabel.load(file)


def _check_size(file: Path) -> None:
    """Raise EOFError or OSError if the file is shorter than its header says, or its checksum is wrong."""
    found = _n_bytes_unpacked(file) if file.suffix == ".gz" else file.stat().st_size
    expected = _n_bytes_of_nifti(file) if is_nifti(file) else 0
    if found < expected:
        raise EOFError(f"it holds {found} bytes, its header says {expected}")


def _check_end(file: Path) -> None:
    """Raise EOFError or OSError if a file's size, which ends a compressed one, is not as its header says."""
    if not is_nifti(file):
        return
    found, expected = file.stat().st_size, _n_bytes_of_nifti(file)
    if file.suffix == ".gz":
        with file.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            found = int.from_bytes(stream.read(), "little")
        expected %= 1 << 32
    if found != expected:
        raise EOFError(f"it ends after {found} bytes, its header says {expected}")


def _n_bytes_unpacked(file: Path) -> int:
    with gzip.open(file) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(CHUNK), b""))


def _n_bytes_of_nifti(file: Path) -> int:
    """Return the size that the header states; 0 if it cannot be read, which the readers report better."""
    import nibabel

    try:
        stored = open_nifti(file).dataobj
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError):
        return 0
    return int(stored.offset + prod(stored.shape) * stored.dtype.itemsize)
