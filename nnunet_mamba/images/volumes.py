"""Volumes (NIfTI, NRRD, MetaImage): headers as nnU-Net's readers see them, values as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.images.grid import Grid
from nnunet_mamba.images.readers import NIBABEL, REORIENTING, reader_by_ending
from nnunet_mamba.images.whole import is_nifti, open_nifti, or_refuse, require_whole

FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)


@dataclass(frozen=True)
class Header:
    """What a file says of its voxels before they are read.

    n_components  values per voxel; more than one: colours, vectors or complex numbers
    """

    grid: Grid
    n_components: int
    is_float: bool


def read_header(file: Path, reader: str = "") -> Header:
    """Read the header alone, with the grid that nnU-Net's `reader` sees (default: its choice by ending).

    What follows the header may be damaged, which `require_whole` tells.
    """
    file = Path(file)
    if not is_nifti(file):
        header = or_refuse(file, lambda: _itk_header(file))
        return Header(_grid_of(header), header.GetNumberOfComponents(), header.GetPixelID() in FLOATS)
    stored = or_refuse(file, lambda: open_nifti(file))
    by_nibabel = (reader or reader_by_ending(file.suffix)) in (NIBABEL, REORIENTING)
    grid = _grid_by_nibabel(stored) if by_nibabel and len(stored.shape) == 3 else _grid_by_itk(file)
    return Header(grid, _n_components(stored), stored.dataobj.dtype.kind == "f" or _is_scaled(stored))


def read_values(file: Path) -> np.ndarray:
    """Read all values, (..., z, y, x), in the type that the file stores, scaled where it says so.

    A file that is damaged or cut short is refused by name. ITK fills what a truncated NIfTI file lacks with
    zeros, puts other numbers for NaN and infinity, and says nothing; NIfTI files are read by nibabel.
    """
    file = Path(file)
    require_whole(file)
    if not is_nifti(file):
        return or_refuse(file, lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
    return or_refuse(file, lambda: _without_last_ones(np.asanyarray(open_nifti(file).dataobj)).T)


def read_image(file: Path) -> sitk.Image:
    """Read an image by ITK, for what needs its filters; damaged files are refused by name."""
    file = Path(file)
    require_whole(file)
    return or_refuse(file, lambda: sitk.ReadImage(str(file)))


def header_contradiction(file: Path) -> str | None:
    """Say in what a NIfTI header places its voxels twice, and differently; None if it does not.

    A header may hold two transforms, qform and sform, of which readers take one, and the size of voxels once
    more in pixdim. The NIfTI-1 standard leaves open that they disagree.
    """
    if not is_nifti(file):
        return None
    header = or_refuse(file, lambda: open_nifti(file)).header
    n = min(len(header.get_data_shape()), 3)
    size, pixdim = (1,) * n, tuple(float(mm) for mm in header.get_zooms()[:n])
    (qform, _), (sform, _) = or_refuse(
        file, lambda: (header.get_qform(coded=True), header.get_sform(coded=True))
    )
    if sform is None:
        return None
    by_sform = Grid.of_affine(sform, size, tuple(np.linalg.norm(sform[:3, :n], axis=0).tolist()))
    if not np.isfinite(by_sform.direction).all():
        return "its sform has an axis of length 0"
    by_qform = by_sform if qform is None else Grid.of_affine(qform, size, pixdim)
    difference = Grid(size, pixdim, by_qform.origin, by_qform.direction).difference(by_sform)
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
    """Of a NIfTI file, whose header ITK may refuse."""
    try:
        return _grid_of(or_refuse(file, lambda: _itk_header(file)))
    except ValueError as error:
        reason = header_contradiction(file)
        if "orthonormal" in str(error):
            reason = reason or "the axes of its sform are not at right angles"
        if reason is None:
            raise
        raise ValueError(
            f"{file} has a header that ITK cannot use: {reason}. Correct its sform, or have nibabel read the "
            f'data set: "overwrite_image_reader_writer": "{NIBABEL}" in dataset.json.'
        ) from error


def _grid_by_nibabel(stored: Any) -> Grid:
    spacing = tuple(float(mm) for mm in stored.header.get_zooms()[:3])
    return Grid.of_affine(stored.affine, stored.shape, spacing)


def _n_components(stored: Any) -> int:
    """Of colours by their names; vectors are the fifth axis."""
    dtype, shape = stored.dataobj.dtype, stored.shape
    if dtype.names:
        return len(dtype.names)
    return 2 if dtype.kind == "c" else shape[4] if len(shape) > 4 else 1


def _is_scaled(stored: Any) -> bool:
    return (stored.dataobj.slope, stored.dataobj.inter) != (1, 0)


def _without_last_ones(values: np.ndarray) -> np.ndarray:
    """(x, y, z, 1) -> (x, y, z), as ITK has it."""
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return values
