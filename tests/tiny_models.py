"""Plans, data sets and trained folders of nnU-Net for tests of prediction, tiny and with random weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from conftest import LABELS, configuration
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from tiny_files import write_volume

HOW = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
KINDS = {
    **LABELS,
    "priorities": {"labels": {"background": 0, "all": [1, 2, 3], "two": [2, 3], "one": 1}}
    | {"regions_class_order": [3, 1, 2]},
    "300 labels": {"labels": {"background": 0, **{f"l{n}": n for n in range(1, 300)}}},
}
STATISTICS = {"mean": 0.1, "std": 0.9, "percentile_00_5": -1.5, "percentile_99_5": 1.5}


def tiny_plans(
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    transpose: Sequence[int] = (0, 1, 2),
    n_channels: int = 1,
    patch: Sequence[int] | None = None,
    **probabilities: Any,
) -> dict:
    """Plans with one configuration, "c"; `probabilities` changes how theirs are resampled."""
    own = configuration(len(spacing), 2, patch=tuple(patch) if patch else None)
    own["spacing"] = list(spacing)
    own["normalization_schemes"] *= n_channels
    own["use_mask_for_norm"] *= n_channels
    for kind, changes in (
        ("data", {"order": 3}),
        ("seg", {"is_seg": True}),
        ("probabilities", probabilities),
    ):
        own[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        own[f"resampling_fn_{kind}_kwargs"] = {**HOW, **changes}
    return {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "nnUNetPlans",
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): STATISTICS for n in range(n_channels)},
        "configurations": {"c": own},
    }


def managers(plans: dict) -> tuple[PlansManager, ConfigurationManager]:
    found = PlansManager(plans)
    return found, found.get_configuration("c")


def tiny_predictor(plans: dict, dataset: dict) -> SimpleNamespace:
    """What a predictor knows of its model, without a network."""
    plans_manager, configuration_manager = managers(plans)
    return SimpleNamespace(
        plans_manager=plans_manager,
        configuration_manager=configuration_manager,
        dataset_json=dataset,
        label_manager=plans_manager.get_label_manager(dataset),
        trainer_name="nnUNetTrainer",
        allowed_mirroring_axes=tuple(range(len(configuration_manager.patch_size))),
    )


def tiny_dataset(kind: str = "labels", n_channels: int = 1, ending: str = ".nii.gz") -> dict:
    """A dataset.json with labels of a kind of KINDS."""
    channels = {str(n): "MRI" for n in range(n_channels)}
    return {"channel_names": channels, "numTraining": 6, "file_ending": ending, **KINDS[kind]}


def properties_of(
    plans: dict, spacing: Sequence[float], inside: Sequence[int], margins: Sequence[tuple[int, int]]
) -> dict:
    """What preprocessing tells of an image: `spacing` in its own order of axes; `inside`, the part that the
    network saw, and the margins around it in the network's."""
    parts = list(zip(inside, margins, strict=True))
    shape = tuple(first + size + last for size, (first, last) in parts)
    own = tuple(shape[axis] for axis in plans["transpose_backward"])
    grid = {"spacing": tuple(spacing)[::-1], "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}
    return {
        "sitk_stuff": grid,
        "spacing": list(spacing),
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[first, first + size] for size, (first, _) in parts],
        "shape_after_cropping_and_before_resampling": tuple(inside),
        "own_shape": own,
    }


def write_model(
    folder: Path,
    plans: dict | None = None,
    dataset: dict | None = None,
    folds: Sequence[int] = (0,),
    trainer: type[nnUNetTrainer] = nnUNetTrainer,
) -> Path:
    """Write a folder as nnU-Net's trainers leave it: plans, dataset.json and a checkpoint per fold."""
    plans, dataset = plans or tiny_plans(), dataset or tiny_dataset()
    manager, configuration_manager = managers(plans)
    labels = manager.get_label_manager(dataset)
    cascaded = configuration_manager.previous_stage_name is not None
    n_channels = len(dataset["channel_names"]) + cascaded * len(labels.foreground_labels)
    for fold in folds:
        torch.manual_seed(fold)
        network = trainer.build_network_architecture(
            manager, configuration_manager, n_channels, labels.num_segmentation_heads, False
        )
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer.__name__,
            "init_args": {"configuration": "c", "plans": plans},
            "inference_allowed_mirroring_axes": tuple(range(len(configuration_manager.patch_size))),
        }
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def write_images(folder: Path, shapes: dict[str, Sequence[int]], n_channels: int = 1, **grid: Any) -> Path:
    """Write noise: a file CASE_0000.nii.gz, ... per channel; `grid` as for `write_volume`."""
    rng = np.random.default_rng(0)
    for case, shape in shapes.items():
        for channel in range(n_channels):
            values = rng.normal(size=shape).astype(np.float32)
            write_volume(folder / f"{case}_{channel:04d}.nii.gz", values, **grid)
    return folder
