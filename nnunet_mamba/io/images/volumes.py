"""Volumes (NIfTI, NRRD, MetaImage): headers as nnU-Net's readers see them, values as they are stored."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.io.images.grid import Grid
from nnunet_mamba.io.images.integrity import check_complete, is_nifti, open_nifti, read_or_raise
from nnunet_mamba.io.images.readers import NIBABEL, NIBABEL_REORIENTING, find_reader_by_ending

FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)
BY_NIBABEL = (NIBABEL, NIBABEL_REORIENTING)
NIFTI_1 = 348  # bytes of its header
NIFTI_2 = 540  # bytes of its header
QUATERNION = 5e-3  # of a cosine: what float32 may lose of a qform that is turned by nearly half a circle


@dataclass(frozen=True)
class Header:
    """Facts that a file states of its voxels before they are read.

    spacing       in mm (x, y, z), as nnU-Net takes it: by nibabel from pixdim, not from the grid's transform
    n_components  values per voxel; more than one: colours, vectors or complex numbers
    n_axes        of the array in the file; ITK and `read_values` leave out last axes of size 1
    """

    grid: Grid
    spacing: tuple[float, ...]
    n_components: int
    is_float: bool
    n_axes: int


def read_header(file: Path, reader: str = "") -> Header:
    """Read the header alone, with the grid that nnU-Net's `reader` sees (default: its choice by ending).

    The data behind the header may be damaged, which `check_complete` finds.
    """
    file = Path(file)
    if not is_nifti(file):
        header = read_or_raise(file, lambda: _itk_header(file))
        grid, is_float = _grid_of(header), header.GetPixelID() in FLOATS
        return Header(grid, grid.spacing, header.GetNumberOfComponents(), is_float, len(grid.size))
    stored = read_or_raise(file, lambda: open_nifti(file))
    is_float = stored.dataobj.dtype.kind == "f" or _is_scaled(stored)
    size = _without_last_ones(stored.shape)
    if (reader or find_reader_by_ending(file.suffix)) in BY_NIBABEL and len(size) == 3:
        grid = Grid.of_affine(stored.affine, size)
        spacing = tuple(float(mm) for mm in stored.header.get_zooms()[:3])
    else:
        grid = _grid_by_itk(file)
        spacing = grid.spacing
    return Header(grid, spacing, _n_components(stored), is_float, len(stored.shape))


def read_values(file: Path) -> np.ndarray:
    """Read all values, (..., z, y, x), in the type that the file stores, scaled where it says so.

    ValueError, with the file's name, for a file that is damaged or cut short. ITK fills what a truncated
    NIfTI file lacks with zeros and replaces NaN and infinity without an error; so nibabel reads NIfTI files.
    """
    file = Path(file)
    check_complete(file)
    if not is_nifti(file):
        return read_or_raise(file, lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
    values = read_or_raise(file, lambda: np.asanyarray(open_nifti(file).dataobj))
    return values.reshape(_without_last_ones(values.shape), order="A").T


def read_image(file: Path) -> sitk.Image:
    """Read an image by ITK, for its filters. ValueError, with the file's name, for damaged files."""
    file = Path(file)
    check_complete(file)
    return read_or_raise(file, lambda: sitk.ReadImage(str(file)))


def read_stored_spacing(file: Path) -> tuple[float, ...] | None:
    """Return the spacing in mm that a NIfTI header holds along its first axes of more than one voxel; readers
    make 1 of 0. None for files of other kinds."""
    file = Path(file)
    if not is_nifti(file):
        return None
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        header = read_or_raise(file, lambda: stream.read(NIFTI_1))
    order = "<" if header[:4] == struct.pack("<i", NIFTI_1) else ">"
    if len(header) < NIFTI_1 or header[:4] != struct.pack(f"{order}i", NIFTI_1):
        return None  # which its reader will say, or NIfTI-2
    n_voxels, mm = struct.unpack_from(f"{order}8h", header, 40), struct.unpack_from(f"{order}8f", header, 76)
    return tuple(mm[axis] for axis in range(1, min(n_voxels[0], 3) + 1) if n_voxels[axis] > 1)


def find_header_contradiction(file: Path) -> str | None:
    """Return how qform, sform and pixdim of a NIfTI header contradict each other; None if they agree.

    A header may hold two transforms, qform and sform, of which readers take one, and the size of voxels once
    more in pixdim. The NIfTI-1 standard allows them to disagree.
    """
    if not is_nifti(file):
        return None
    header = read_or_raise(file, lambda: open_nifti(file)).header
    size = (1,) * min(len(header.get_data_shape()), 3)
    pixdim = tuple(float(mm) for mm in header.get_zooms()[: len(size)])
    (qform, _), (sform, _) = read_or_raise(
        file, lambda: (header.get_qform(coded=True), header.get_sform(coded=True))
    )
    if sform is None:
        return None
    by_sform = Grid.of_affine(sform, size)
    if not np.isfinite(by_sform.direction).all():
        return "its sform has an axis of length 0"
    by_qform = by_sform if qform is None else Grid.of_affine(qform, size)
    other = Grid(size, pixdim, by_qform.origin, by_qform.direction)
    difference = other.difference(by_sform, cosines=QUATERNION)
    first = "pixdim" if difference and difference.startswith("spacing") else "qform"
    return f"its {first} and sform differ in {difference}" if difference else None


def _itk_header(file: Path) -> Any:
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    header.ReadImageInformation()
    return header


def _grid_of(header: Any) -> Grid:
    return Grid(header.GetSize(), header.GetSpacing(), header.GetOrigin(), header.GetDirection())


def _grid_by_itk(file: Path) -> Grid:
    """Return the grid of a NIfTI file as ITK sees it, which may refuse the header."""
    try:
        return _grid_of(read_or_raise(file, lambda: _itk_header(file)))
    except ValueError as error:
        reason = find_header_contradiction(file)
        if open_nifti(file).header["sizeof_hdr"] == NIFTI_2:
            reason = "it is of NIfTI-2"
        elif "orthonormal" in str(error):
            reason = reason or "the axes of its sform are not at right angles"
        if reason is None:
            raise
        raise ValueError(
            f"{file} has a header that ITK cannot use: {reason}. Write it anew, or have nibabel read the "
            f'data set: "overwrite_image_reader_writer": "{NIBABEL}" in dataset.json.'
        ) from error


def _n_components(stored: Any) -> int:
    """Return the number of values per voxel: of colours by their names; vectors are the fifth axis."""
    dtype, shape = stored.dataobj.dtype, stored.shape
    if dtype.names:
        return len(dtype.names)
    return 2 if dtype.kind == "c" else shape[4] if len(shape) > 4 else 1


def _is_scaled(stored: Any) -> bool:
    return (stored.dataobj.slope, stored.dataobj.inter) != (1, 0)


def _without_last_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without last axes of size 1, as ITK has it: (x, y, z, 1) -> (x, y, z)."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
