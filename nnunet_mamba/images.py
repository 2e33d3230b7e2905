"""Reading images completely, or not at all: the one door through which image files come in."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

CHUNK = 1 << 22  # bytes
FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
TOLERANCE = 1e-3  # relative for spacings, of a voxel for origins, cosines for directions: lost by rounding


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image are, in its header's order (x, y, z), lengths in mm."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def difference(self, expected: Grid) -> str | None:
        """The first thing in which the two differ by more than rounding, with both values; None if none."""
        voxel = min(expected.spacing)
        for what, absolute, relative in (
            ("size", 0.0, 0.0),
            ("spacing", 0.0, TOLERANCE),
            ("origin", 10 * TOLERANCE * voxel, 0.0),
            ("direction", TOLERANCE, 0.0),
        ):
            a, b = getattr(self, what), getattr(expected, what)
            if len(a) != len(b) or not np.allclose(a, b, atol=absolute, rtol=relative):
                return f"{what}: {rounded(a)} against {rounded(b)}"
        return None


def rounded(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"


def grid_of(image: Any) -> Grid:
    """Of a sitk.Image, or of an ImageFileReader that has read the header."""
    return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def read_image(file: Path) -> sitk.Image:
    """The image in `file`; a file that is damaged or cut short is refused by name.

    ITK fills what a truncated NIfTI file lacks with zeros and says nothing, so files are first measured, and
    compressed ones unpacked once for their checksum.
    """
    file = Path(file)
    require_whole(file)
    return _or_refuse(file, lambda: sitk.ReadImage(str(file)))


def values_of(image: sitk.Image, file: Path) -> np.ndarray:
    """The values of the `image` that was read from `file`, (..., y, x), read only.

    ITK puts other numbers for NaN and infinity in NIfTI files and says nothing; here they stay what they are.
    """
    values = sitk.GetArrayViewFromImage(image)
    if image.GetPixelID() not in FLOATS or not _is_nifti(Path(file)):
        return values
    stored = _stored(Path(file)).get_unscaled().T
    return values if np.isfinite(stored).all() else stored


def read_header(file: Path) -> sitk.ImageFileReader:
    """The header alone: what follows it may be damaged, which `require_whole` tells."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    _or_refuse(Path(file), reader.ReadImageInformation)
    return reader


def require_whole(file: Path) -> None:
    """Refuse a NIfTI or compressed file that is damaged or cut short, without reading it as an image."""
    _or_refuse(Path(file), lambda: _check_size(Path(file)))


def read_picture(file: Path) -> np.ndarray:
    """(y, x) or (y, x, colours) of a PNG, JPEG, BMP or TIFF."""
    from skimage.io import imread

    return _or_refuse(Path(file), lambda: imread(file))


def is_picture(file: Path) -> bool:
    return Path(file).suffix.lower() in PICTURES


def _or_refuse(file: Path, read: Any) -> Any:
    """What `read` returns; ValueError with the file's name if it cannot."""
    try:
        return read()
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist.") from error
    except Exception as error:  # damaged files make readers raise anything, from struct.error to TypeError
        reason = " ".join(str(error).split("\n")[-1].split()) or type(error).__name__
        raise ValueError(
            f"{file} cannot be read as an image ({reason}). Fetch it again, or remove the case."
        ) from error


def _check_size(file: Path) -> None:
    """Raise EOFError or OSError if the file is shorter than its header says, or its checksum is wrong."""
    found = _n_bytes_unpacked(file) if file.suffix == ".gz" else file.stat().st_size
    expected = _n_bytes_of_nifti(file) if _is_nifti(file) else 0
    if found < expected:
        raise EOFError(f"it holds {found} bytes, its header says {expected}")


def _n_bytes_unpacked(file: Path) -> int:
    with gzip.open(file) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(CHUNK), b""))


def _n_bytes_of_nifti(file: Path) -> int:
    """What the header says; 0 if it cannot be read, about which ITK has better words."""
    import nibabel

    try:
        stored = _stored(file)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError):
        return 0
    return int(stored.offset + prod(stored.shape) * stored.dtype.itemsize)


def _stored(file: Path) -> Any:
    """The values in a NIfTI file, of which nothing is read yet; axes (x, y, ...)."""
    import nibabel

    return nibabel.load(file).dataobj  # type: ignore[attr-defined]


def _is_nifti(file: Path) -> bool:
    return file.name.endswith((".nii", ".nii.gz"))
