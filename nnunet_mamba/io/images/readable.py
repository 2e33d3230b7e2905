"""Readability of image files of any kind."""

from pathlib import Path

from nnunet_mamba.io.images.pictures import is_picture, read_channels
from nnunet_mamba.io.images.tiff import is_tiff, read_tiff
from nnunet_mamba.io.images.volumes import read_values

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".gipl")


def is_image(file: Path) -> bool:
    return is_picture(file) or Path(file).name.lower().endswith(VOLUMES)


def check_readable(file: Path) -> None:
    """Raise ValueError for an image that is damaged or cut short."""
    if is_tiff(file):
        read_tiff(file)
    elif is_picture(file):
        read_channels(file)
    else:
        read_values(file)
