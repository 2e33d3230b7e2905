#!/usr/bin/env python
"""Make an anisotropic dataset of an isotropic one: each three slices become one, three times as thick.

    scripts/mm_unet/thick_slices.py 4 Dataset104_HippocampusThick

reads a dataset in nnUNet_raw, given by its number or name, and writes another one there, of the same cases,
or nothing at all. Along the first axis of the array, (z, y, x), an image is averaged, as a scanner with
thicker slices would see it, and of labels each voxel takes the one that most of its slices have; where all
three differ, the middle one's. One or two slices that are left at the far end make the last one; its place
is that of a whole one, so off by half or one of the old.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.io.atomic import atomic_directory
from nnunet_mamba.io.images import read_image
from nnunet_mamba.nnunet.dataset_json import read_dataset_json
from nnunet_mamba.nnunet.paths import find_dataset

SLICES = 3
Merge = Callable[[np.ndarray], np.ndarray]  # (slices, y, x) -> (y, x)


def main() -> None:
    parser = argparse.ArgumentParser(description="An anisotropic dataset of an isotropic one.")
    parser.add_argument("dataset", help="number or name of a dataset in nnUNet_raw")
    parser.add_argument("name", metavar="DATASET###_NAME", help="of the new dataset")
    args = parser.parse_args()
    dataset = find_dataset("nnUNet_raw", args.dataset, "Convert it first: nnunet-mamba convert --help.")
    print(f"-> {make_thick(dataset, args.name)}")


def make_thick(dataset: Path, name: str) -> Path:
    """Write the dataset `name` beside `dataset` and return its folder.

    ValueError for a name that nnU-Net does not know a dataset by, or whose number another one has.
    """
    if not re.fullmatch(r"Dataset\d{3}_\w+", name):
        raise ValueError(f"{name!r} is not the name of a dataset; expected one such as Dataset104_Thick.")
    for other in dataset.parent.glob(f"{name[: len('Dataset###')]}_*"):
        raise ValueError(f"{other} has this number already; remove it, or choose another number.")
    target = dataset.with_name(name)
    description = {**read_dataset_json(dataset / "dataset.json"), "name": name}
    with atomic_directory(target) as draft:
        for file in sorted(dataset.glob(f"*/*{description['file_ending']}")):
            if merge := MERGES.get(file.parent.name):
                (draft / file.parent.name).mkdir(exist_ok=True)
                thick = merge_slices(read_image(file), merge)
                sitk.WriteImage(thick, str(draft / file.relative_to(dataset)))
        (draft / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return target


def merge_slices(image: sitk.Image, merge: Merge) -> sitk.Image:
    """Return the image with merged slices, each placed in the middle of its own."""
    if image.GetDimension() != 3:
        raise ValueError(f"Expected volumes, got an image of {image.GetDimension()} axes.")
    values = sitk.GetArrayFromImage(image)
    groups = np.split(values, range(SLICES, len(values), SLICES))
    merged = sitk.GetImageFromArray(np.stack([merge(group) for group in groups]))
    *plane, thickness = image.GetSpacing()
    merged.SetSpacing((*plane, SLICES * thickness))
    merged.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((0, 0, (SLICES - 1) / 2)))
    merged.SetDirection(image.GetDirection())
    return merged


def average(slices: np.ndarray) -> np.ndarray:
    """Return the mean of slices as float32."""
    return slices.mean(axis=0, dtype=np.float32)


def vote(slices: np.ndarray) -> np.ndarray:
    """Return the most frequent label of each voxel; among equally frequent ones the middle slice's if it is
    one of them, else the lowest."""
    labels, middle = np.unique(slices), slices[len(slices) // 2]
    votes = np.stack([(slices == label).sum(axis=0) + 0.5 * (middle == label) for label in labels])
    return labels[votes.argmax(axis=0)]


MERGES: dict[str, Merge] = {"imagesTr": average, "imagesTs": average, "labelsTr": vote, "labelsTs": vote}


if __name__ == "__main__":
    main()
