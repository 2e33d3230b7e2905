"""Images: the one way to read them, completely or not at all, and to write label maps."""

from nnunet_mamba.io.images.grid import Grid
from nnunet_mamba.io.images.integrity import check_complete, check_ended, is_nifti
from nnunet_mamba.io.images.pictures import (
    count_picture_channels,
    is_picture,
    is_plain,
    merge_equal_channels,
    read_channels,
    read_picture,
)
from nnunet_mamba.io.images.readable import check_readable, is_image
from nnunet_mamba.io.images.readers import (
    ITK,
    NIBABEL_REORIENTING,
    REORIENTING,
    TIFF,
    get_reader_name,
)
from nnunet_mamba.io.images.tiff import get_spacing_file, is_tiff, read_tiff, read_tiff_spacing
from nnunet_mamba.io.images.volumes import (
    Header,
    find_header_contradiction,
    read_header,
    read_image,
    read_stored_spacing,
    read_values,
)
from nnunet_mamba.io.images.writing import label_type, write_label_map, write_like

__all__ = [
    "ITK",
    "NIBABEL_REORIENTING",
    "REORIENTING",
    "TIFF",
    "Grid",
    "Header",
    "check_complete",
    "check_ended",
    "check_readable",
    "count_picture_channels",
    "find_header_contradiction",
    "get_reader_name",
    "get_spacing_file",
    "is_image",
    "is_nifti",
    "is_picture",
    "is_plain",
    "is_tiff",
    "label_type",
    "merge_equal_channels",
    "read_channels",
    "read_header",
    "read_image",
    "read_picture",
    "read_stored_spacing",
    "read_tiff",
    "read_tiff_spacing",
    "read_values",
    "write_label_map",
    "write_like",
]
