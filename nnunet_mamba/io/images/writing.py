"""Writing of images on the very grid of another one, label maps in the smallest type that holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.io.images.integrity import is_nifti, open_nifti, read_or_raise
from nnunet_mamba.io.images.pictures import is_picture
from nnunet_mamba.io.images.volumes import read_image

LARGEST = {".png": 2**16 - 1, ".bmp": 2**8 - 1}  # value that a picture of the kind can hold


def label_type(labels: np.ndarray) -> np.dtype:
    """Return the smallest integer type that holds all of the whole numbers `labels`."""
    lowest, highest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    highest = -1 - highest if lowest < 0 else highest  # a signed type reaches one further down than up
    return np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest))


def write_label_map(labels: np.ndarray, like: Path, target: Path) -> None:
    """Write whole numbers, (z, y, x) or (y, x), as `write_like` does, in their `label_type`."""
    write_like(labels.astype(label_type(labels)), like, target)


def write_like(values: np.ndarray, like: Path, target: Path) -> None:
    """Write `values`, (z, y, x) or (y, x), into `target` with the header of the image `like`.

    Of a NIfTI file the header is kept as it is, qform and sform, so that every reader places both alike.
    Pictures, of which (y, x, 3) may be written too, have no header. ValueError for what a format cannot hold.
    """
    if is_picture(target):
        _write_picture(values, target)
    elif is_nifti(like) and is_nifti(target):
        _write_nifti(values, like, target)
    else:
        image, reference = sitk.GetImageFromArray(values), read_image(like)
        image.CopyInformation(reference[..., 0] if reference.GetDimension() == 4 else reference)
        sitk.WriteImage(image, str(target))


def _write_picture(values: np.ndarray, target: Path) -> None:
    from skimage.io import imsave

    largest = LARGEST.get(target.suffix.lower(), values.max(initial=0))
    if values.max(initial=0) > largest:
        raise ValueError(f"{target.name} cannot hold {values.max()}; a file of this kind ends at {largest}.")
    imsave(target, values, check_contrast=False)


def _write_nifti(values: np.ndarray, like: Path, target: Path) -> None:
    import nibabel

    header = read_or_raise(like, lambda: open_nifti(like)).header.copy()
    header.set_data_dtype(values.dtype)
    header["cal_min"] = header["cal_max"] = 0  # what a viewer shows of the other image
    nibabel.save(nibabel.Nifti1Image(values.T, None, header), target)
