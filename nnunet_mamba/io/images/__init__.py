"""Images: the one way to read them, completely or not at all, and to write label maps."""

from nnunet_mamba.io.images.grid import Grid
from nnunet_mamba.io.images.integrity import check_complete, is_nifti
from nnunet_mamba.io.images.pictures import (
    is_picture,
    is_plain,
    n_channels_of_picture,
    one_channel,
    read_channels,
    read_picture,
)
from nnunet_mamba.io.images.readable import check_readable, is_image
from nnunet_mamba.io.images.readers import (
    ITK,
    NIBABEL_REORIENTING,
    REORIENTING,
    TIFF,
    reader_of,
)
from nnunet_mamba.io.images.tiff import is_tiff, read_tiff, spacing_file, spacing_of_tiff
from nnunet_mamba.io.images.volumes import Header, header_contradiction, read_header, read_image, read_values
from nnunet_mamba.io.images.writing import label_type, write_label_map, write_like

__all__ = [
    "ITK",
    "NIBABEL_REORIENTING",
    "REORIENTING",
    "TIFF",
    "Grid",
    "Header",
    "check_complete",
    "check_readable",
    "header_contradiction",
    "is_image",
    "is_nifti",
    "is_picture",
    "is_plain",
    "is_tiff",
    "label_type",
    "n_channels_of_picture",
    "one_channel",
    "read_channels",
    "read_header",
    "read_image",
    "read_picture",
    "read_tiff",
    "read_values",
    "reader_of",
    "spacing_file",
    "spacing_of_tiff",
    "write_label_map",
    "write_like",
]
