"""nnU-Net's readers, and which of them a dataset's files are read with.

They differ in where a NIfTI file says that its voxels are: those of nibabel take its sform first, ITK its
qform in many cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ITK, TIFF = "SimpleITKIO", "Tiff3DIO"
NIBABEL, NIBABEL_REORIENTING = "NibabelIO", "NibabelIOWithReorient"
REORIENTING = (NIBABEL_REORIENTING, "SimpleITKIOWithReorient")  # turn every image to the same order of axes
PICTURES = "NaturalImage2DIO"
KNOWN = (ITK, NIBABEL, *REORIENTING, TIFF, PICTURES)
BY_ENDING = {  # nnU-Net's choice where dataset.json names none: the first reader that knows the ending
    ".nii": NIBABEL,
    ".tiff": TIFF,
    **dict.fromkeys((".png", ".bmp", ".tif"), PICTURES),
}


def get_reader_name(description: Mapping[str, Any]) -> str:
    """Return the name of nnU-Net's reader for the files of a dataset.json."""
    named = description.get("overwrite_image_reader_writer")
    return named if named in KNOWN else find_reader_by_ending(str(description.get("file_ending", "")))


def find_reader_by_ending(ending: str) -> str:
    return BY_ENDING.get(ending.lower(), ITK)
