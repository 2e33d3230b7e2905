"""Tiny image files for tests: volumes on a turned, anisotropic grid, and pictures."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk

SHAPE = (8, 10, 12)  # z, y, x
PICTURE = (40, 48)  # y, x
SPACING_MM = (0.8, 0.9, 2.5)  # x, y, z
ORIGIN_MM = (-10.0, 5.0, 30.0)
COS, SIN = 0.96, 0.28  # of a turn around z
DIRECTION = (COS, -SIN, 0.0, SIN, COS, 0.0, 0.0, 0.0, 1.0)
GRID = {"spacing": SPACING_MM, "origin": ORIGIN_MM, "direction": DIRECTION}
UNIT_GRID = {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}


def blocks(values, shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint8) -> np.ndarray:
    """`values` one after the other, in pieces of equal size: of 960 voxels and n values, the i-th voxel has
    values[i * n // 960]."""
    n_voxels = int(np.prod(shape))
    return np.asarray(values, dtype)[np.arange(n_voxels) * len(values) // n_voxels].reshape(shape)


def affine(**grid: Any) -> np.ndarray:
    """nibabel's affine of GRID, or of `grid` in its place: (4, 4), from voxels to mm, axes RAS."""
    grid = {**GRID, **grid}
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(grid["direction"], (3, 3)) * grid["spacing"]
    matrix[:3, 3] = grid["origin"]
    return np.diag((-1.0, -1.0, 1.0, 1.0)) @ matrix


def write_nifti(
    file: Path, array: np.ndarray, qform: np.ndarray | None, sform: np.ndarray | None, sform_code: int = 2
) -> None:
    """(z, y, x) with two affines in the header, by nibabel; pixdim is GRID's where there is no qform."""
    import nibabel

    image = nibabel.Nifti1Image(array.T, None)
    image.header["pixdim"][1:4] = SPACING_MM
    if qform is not None:
        image.set_qform(qform, code=1)
    if sform is not None:
        image.set_sform(sform, code=sform_code)
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, file)


def scan(seed: int, dtype: Any = np.int16) -> np.ndarray:
    """Noise between 1 and 999, another one for each seed. Shape: (8, 10, 12)."""
    return np.random.default_rng(seed).integers(1, 1000, SHAPE).astype(dtype)


def volume(array: np.ndarray, **grid: Any) -> sitk.Image:
    """(z, y, x), or (channel, z, y, x) as a 4D image; `grid` in place of GRID."""
    volumes = [sitk.GetImageFromArray(channel) for channel in (array if array.ndim == 4 else array[None])]
    for one in volumes:
        for what, value in {**GRID, **grid}.items():
            getattr(one, f"Set{what.capitalize()}")(value)
    return sitk.JoinSeries(volumes) if array.ndim == 4 else volumes[0]


def write_volume(file: Path, array: np.ndarray, **grid: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume(array, **grid), str(file))


def read_volume(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def write_picture(file: Path, array: np.ndarray, **options: Any) -> None:
    from skimage.io import imsave

    file.parent.mkdir(parents=True, exist_ok=True)
    imsave(file, array, check_contrast=False, **options)


def photograph(seed: int, shape: tuple[int, ...] = (*PICTURE, 3), dtype: Any = np.uint8) -> np.ndarray:
    """Noise between 1 and 250."""
    return np.random.default_rng(seed).integers(1, 251, shape).astype(dtype)


def disc(value: int = 255, shape: tuple[int, int] = PICTURE, dtype: Any = np.uint8) -> np.ndarray:
    """`value` within 12 pixels of the middle, 0 elsewhere."""
    y, x = np.indices(shape)
    within = (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2 < 12**2
    return np.where(within, value, 0).astype(dtype)


def put(file: Path, content: bytes | str = "") -> None:
    """Write a file, folders and all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


@cache
def scan_bytes(seed: int, dtype: str = "int16", n_channels: int = 0) -> bytes:
    """A .nii.gz of `scan`, or of a 4D image whose channels have the seeds 10 seed, 10 seed + 1, ..."""
    if n_channels:
        return _bytes_of(np.stack([scan(10 * seed + channel, dtype) for channel in range(n_channels)]))
    return _bytes_of(scan(seed, dtype))


@cache
def label_bytes(values: tuple[int, ...], dtype: str = "uint8") -> bytes:
    """A .nii.gz of `blocks`."""
    return _bytes_of(blocks(values, dtype=dtype))


def picture_bytes(array: np.ndarray) -> bytes:
    """A .png."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        write_picture(file, array)
        return file.read_bytes()


def _bytes_of(array: np.ndarray) -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.nii.gz"
        write_volume(file, array)
        return file.read_bytes()
