"""Trained folders to share, made without nnU-Net: what an export reads is files."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from conftest import configuration

DATASET, MODEL = "Dataset999_Tiny", "nnUNetTrainerMMUNet_5epochs__nnUNetPlans__3d_fullres"


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights of several dtypes and layouts, one of them under two names, as nnU-Net's encoders are."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(4, 2, 3, 3, 3, generator=generator)
    return {
        "encoder.conv": kernel,
        "decoder.encoder.conv": kernel,
        "half": torch.randn(5, generator=generator).half(),
        "bfloat": torch.randn(5, generator=generator).bfloat16(),
        "nan": torch.tensor([float("nan"), -0.0, float("inf"), 1e-42]),
        "turned": torch.randn(3, 4, generator=generator).T,
        "last": kernel.clone().contiguous(memory_format=torch.channels_last_3d),
        "part": torch.arange(10.0)[3:6],
        "count": torch.tensor(seed),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "a.first.by.name": torch.ones(1, dtype=torch.float64),
    }


def complete_plans() -> dict:
    """Plans with all that nnU-Net needs to predict with their one configuration, 3d_fullres."""
    kinds = ("data", "seg", "probabilities")
    resampling = {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds}
    arguments = {f"resampling_fn_{kind}_kwargs": {"is_seg": kind == "seg"} for kind in kinds}
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": {**configuration(3, 2), **resampling, **arguments}},
    }


def write_trained(results: Path) -> SimpleNamespace:
    """A trained folder with folds 0, 1 and all, the last one without a final checkpoint; its contents, and a
    function that writes them again."""
    folder = results / DATASET / MODEL
    plans = complete_plans()
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "liver": 1, "tumour": [1, 2]},
        "regions_class_order": [1, 2],
        "numTraining": 12,
        "file_ending": ".nii.gz",
    }
    for fold, name in (("0", "final"), ("1", "final"), ("all", "best")):
        content = {
            "network_weights": weights(ord(fold[0])),
            "optimizer_state": {"momentum": torch.ones(1000)},
            "trainer_name": "nnUNetTrainerMMUNet_5epochs",
            "init_args": {"configuration": "3d_fullres", "plans": plans, "fold": fold},
            "inference_allowed_mirroring_axes": (0, 1),
            "current_epoch": 5,
        }
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(content, folder / f"fold_{fold}" / f"checkpoint_{name}.pth")
    found = SimpleNamespace(folder=folder, plans=plans, description=description, write=None)

    def write() -> None:
        (folder / "plans.json").write_text(json.dumps(found.plans, indent=4))
        (folder / "dataset.json").write_text(json.dumps(found.description))

    found.write = write
    write()
    return found
