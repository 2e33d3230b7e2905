"""Preprocessed cases and their reference labels, for tests of validation: noise with two labels."""

from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_files import write_volume

SPACING = (0.8, 0.9, 1.0)  # x, y, z in mm, of the images; the networks see 1 mm
SHAPE = (12, 14, 16)
N_CASES = 3  # case_0, case_1, ...


def preprocessed_shape(spacing):
    """Of an image of SHAPE and SPACING: (z, y, x)."""
    sizes = zip(SHAPE, SPACING[::-1], spacing, strict=True)
    return tuple(round(n * mm / mm_now) for n, mm, mm_now in sizes)


def write_preprocessed(folder: Path, spacing) -> None:
    """Write three preprocessed cases, noise with two labels, for a network of that spacing."""
    grid = {"spacing": SPACING, "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}
    properties = {
        "sitk_stuff": grid,
        "spacing": list(SPACING[::-1]),
        "shape_before_cropping": SHAPE,
        "bbox_used_for_cropping": [[0, n] for n in SHAPE],
        "shape_after_cropping_and_before_resampling": SHAPE,
    }
    folder.mkdir(exist_ok=True, parents=True)
    if (folder / "case_0.b2nd").exists():
        return  # for an earlier validation
    rng = np.random.default_rng(0)
    for number in range(N_CASES):
        labels = np.zeros((1, *preprocessed_shape(spacing)), np.int8)
        labels[..., :5, :5], labels[..., -4:, -4:] = 1, 2
        image = rng.normal(size=labels.shape).astype(np.float32) + labels
        places = {label: np.argwhere(labels == label) for label in (1, 2)}
        sizes = {"chunks": labels.shape, "blocks": labels.shape}
        known = {**properties, "class_locations": places}
        nnUNetDatasetBlosc2.save_case(image, labels, known, str(folder / f"case_{number}"), **sizes)


def write_truth(folder: Path) -> None:
    """Write label maps of the cases, noise of three labels."""
    for number in range(N_CASES):
        truth = np.random.default_rng(number).integers(0, 3, SHAPE).astype(np.uint8)
        grid = {"spacing": SPACING, "origin": (0.0, 0.0, 0.0), "direction": np.eye(3).ravel()}
        write_volume(folder / f"case_{number}.nii.gz", truth, **grid)
