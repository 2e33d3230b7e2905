"""nnU-Net's preprocessing of an image that is to be predicted, without what only training needs.

nnU-Net fills holes in the mask of what is not zero and resamples that mask, as the segmentation of the case.
A prediction needs its bounding box alone, but where intensities are normalised within the mask or a cascade
has labels of its previous stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    resample_data_or_seg_to_shape,
)
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from scipy import ndimage
from torch import Tensor

from nnunet_mamba.inference.resampling import Resampling, get_spacings, resample_image
from nnunet_mamba.io.images import read_stored_spacing
from nnunet_mamba.nnunet.dataset_json import get_channels

# nnU-Net's normalisations, which ask for the mask only if the plans say so
KNOWN_NORMALIZATIONS = {f"{kind}Normalization" for kind in ("CT", "ZScore", "No", "RescaleTo01", "RGBTo01")}
OUTSIDE = -1  # nnU-Net's label of what is zero in every channel


def preprocess_case(
    files: Sequence[str],
    previous_stage: str | None,
    plans: Any,
    configuration: Any,
    dataset: dict,
) -> tuple[Tensor, dict]:
    """Read and preprocess an image as nnU-Net does, in its order of axes and in float32.

    Args:
        files: one per channel.
        previous_stage: label map of a cascade's previous stage, which becomes one channel per label.

    Returns the image, (C, x, y, z), and its properties, which the export needs. Raises ValueError for an
    image without a usable spacing, of the wrong number of channels, or too thin for the network's spacing.
    """
    for file in files:
        _check_spacing(read_stored_spacing(Path(file)) or ())
    reader = plans.image_reader_writer_class()
    image, properties = reader.read_images(list(files))
    labels = reader.read_seg(previous_stage)[0] if previous_stage else None
    _check_read(image, labels, properties, len(get_channels(dataset)))
    preprocessor = configuration.preprocessor_class(verbose=False)
    if type(preprocessor) is DefaultPreprocessor:
        image, labels = run_case(preprocessor, image, labels, properties, plans, configuration)
    else:
        image, labels, _ = preprocessor.run_case_npy(image, labels, properties, plans, configuration, dataset)
    if previous_stage and labels is not None:
        names = plans.get_label_manager(dataset).foreground_labels
        image = np.vstack([image, convert_labelmap_to_one_hot(labels[0], names, image.dtype)])
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)), properties


def run_case(
    preprocessor: DefaultPreprocessor,
    image: np.ndarray,
    labels: np.ndarray | None,
    properties: dict,
    plans: Any,
    configuration: Any,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Crop, normalise and resample an image (C, x, y, z), which is overwritten, as `run_case_npy` does."""
    axes = [0, *(axis + 1 for axis in plans.transpose_forward)]
    image = np.asarray(image, np.float32).transpose(axes)
    spacing, target_spacing = get_spacings(plans, configuration, properties)
    box = find_nonzero_box(image)
    properties["shape_before_cropping"] = image.shape[1:]
    properties["bbox_used_for_cropping"] = [[part.start, part.stop] for part in box]
    inside = (slice(None), *box)
    image = np.ascontiguousarray(image[inside])
    properties["shape_after_cropping_and_before_resampling"] = image.shape[1:]
    new_shape = compute_new_shape(image.shape[1:], spacing, target_spacing)
    if not all(new_shape):
        raise ValueError(
            f"what is not zero has {tuple(image.shape[1:])} voxels of {spacing} mm, less than half a "
            f"voxel of the network's {target_spacing} mm along an axis. Check the spacing in the header."
        )
    mask: Any = [None]  # per channel
    needs_mask = any(configuration.use_mask_for_norm) or bool(
        set(configuration.normalization_schemes) - KNOWN_NORMALIZATIONS
    )
    if labels is not None or needs_mask:
        mask = np.zeros_like(image[:1], np.int8)
        if labels is not None:
            mask = labels.transpose(axes)[inside].copy()
        mask[(mask == 0) & ~fill_holes((image != 0).any(0))] = OUTSIDE
    image = preprocessor._normalize(
        image, mask, configuration, plans.foreground_intensity_properties_per_channel
    )
    image = _resample(configuration.resampling_fn_data, image, new_shape, spacing, target_spacing)
    if labels is not None:
        labels = configuration.resampling_fn_seg(mask, new_shape, spacing, target_spacing)
    return image, labels


def _resample(resample: Any, image: np.ndarray, new_shape: Any, old: Any, new: Any) -> np.ndarray:
    """Resample by a function of the plans, nnU-Net's own one in our way; `old` and `new` are spacings."""
    if resample.func is not resample_data_or_seg_to_shape or resample.keywords.get("is_seg", False):
        return np.asarray(resample(image, new_shape, old, new))
    return resample_image(
        image, Resampling.from_plans(resample.keywords, image.shape[1:], new_shape, old, new)
    )


def find_nonzero_box(image: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box of (C, x, y, z) that holds all that is not zero; the whole if all is zero."""
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    planes = mask.any((1, 2)), mask.any((0, 2)), mask.any((0, 1))
    used = [np.flatnonzero(some) for some in planes]
    if not used[0].size:
        return tuple(slice(0, n) for n in mask.shape)
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in used)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return a mask (x, y, z) with its holes filled: what is False and not connected to the border by faces.

    Equal to scipy's binary_fill_holes, which dilates step by step and takes the longer the larger the
    outside is.
    """
    parts, n_parts = ndimage.label(~mask)
    is_outside = np.zeros(n_parts + 1, bool)
    for axis in range(mask.ndim):
        for side in (0, -1):
            is_outside[np.unique(parts.take(side, axis))] = True
    is_outside[0] = False  # the mask itself
    return ~is_outside[parts]


def _check_spacing(spacing: Sequence[float]) -> None:
    if not all(np.isfinite(mm) and mm for mm in spacing):
        raise ValueError(
            f"its spacing is {list(spacing)}; expected lengths in mm above 0. Correct the header."
        )


def _check_read(image: np.ndarray, labels: np.ndarray | None, properties: dict, n_channels: int) -> None:
    if len(image) != n_channels:
        raise ValueError(f"the image has {len(image)} channels; the network was trained with {n_channels}.")
    _check_spacing(properties["spacing"])
    if len(properties.get("sitk_stuff", {}).get("spacing", ())) > 3:
        raise ValueError(
            "it has four axes; expected a file per channel, as nnU-Net writes label maps of three."
        )
    if labels is not None and labels.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"the image is of shape {image.shape[1:]}, the previous stage's label map {labels.shape[1:]}; "
            "expected the same. Predict the previous stage from these images."
        )
