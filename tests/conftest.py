"""Shared fixtures: nnU-Net's folders, plans, trainers and batches, all small and without any real data."""

import compileall
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_mamba.nnunet import register, version

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the processors; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

for name in ("raw", "preprocessed", "results", "extTrainer"):  # the user's own are no test's business
    os.environ.pop(f"nnUNet_{name}", None)

pytest_plugins = ["strict_skips"]


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch) -> SimpleNamespace:
    """nnU-Net's three folders, empty, in the environment of this test."""
    folders = {}
    for name in ("raw", "preprocessed", "results"):
        folders[name] = tmp_path / "nnunet" / name
        folders[name].mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(folders[name]))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return SimpleNamespace(**folders)


@pytest.fixture(scope="session")
def nnunet_copy(tmp_path_factory) -> Path:
    """A folder with a copy of the installed nnunetv2, to write into: the installed one serves other tests."""
    folder = tmp_path_factory.mktemp("nnunet_copy")
    shutil.copytree(version.find_trainer_folder().parents[1], folder / "nnunetv2")
    compileall.compile_dir(folder, quiet=1)  # or the first import would write into it
    return folder


@pytest.fixture
def unregistered(nnunet_copy, monkeypatch) -> Iterator[Path]:
    """The trainer folder of a copy of nnU-Net without the file of `register`.

    `register` writes into it, and the processes that the test starts import it.
    """
    folder = nnunet_copy / "nnunetv2" / "training" / "nnUNetTrainer"
    monkeypatch.setattr(register, "find_trainer_folder", lambda: folder)
    monkeypatch.setenv("PYTHONPATH", str(nnunet_copy), prepend=os.pathsep)
    register.unregister_trainers()
    yield folder
    register.unregister_trainers()


def configuration(ndim: int, n_stages: int, patch: tuple[int, ...] | None = None, features: int = 4) -> dict:
    """A configuration as nnU-Net's planner writes it for an isotropic dataset, `n_stages` deep."""
    patch = patch or (2 ** (n_stages + 1),) * ndim
    return {
        "data_identifier": f"nnUNetPlans_{ndim}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(size) for size in patch],
        "spacing": [1.0] * ndim,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": ndim == 2,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": n_stages,
                "features_per_stage": [min(features * 2**stage, 32) for stage in range(n_stages)],
                "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
                "kernel_sizes": [[3] * ndim] * n_stages,
                "strides": [[1] * ndim] + [[2] * ndim] * (n_stages - 1),
                "n_conv_per_stage": [2] * n_stages,
                "n_conv_per_stage_decoder": [2] * (n_stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


@pytest.fixture
def make_plans():
    """A function: plans with the configurations 2d and 3d_fullres, `n_stages` deep."""

    def make(n_stages: int = 3, **changes) -> dict:
        return {
            "dataset_name": "Dataset999_Tiny",
            "plans_name": "nnUNetPlans",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "configurations": {
                "2d": configuration(2, n_stages, **changes),
                "3d_fullres": configuration(3, n_stages, **changes),
            },
        }

    return make


LABELS = {
    "labels": {"labels": {"background": 0, "body": 1, "kernel": 2}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "kernel": 2}, "regions_class_order": [1, 2]},
    "ignore": {"labels": {"background": 0, "body": 1, "kernel": 2, "ignore": 3}},
}


@pytest.fixture
def make_dataset_json():
    """A function: a dataset.json of the given kind ("labels", "regions", "ignore")."""

    def make(kind: str = "labels") -> dict:
        return {"channel_names": {"0": "MRI"}, "numTraining": 6, "file_ending": ".nii.gz", **LABELS[kind]}

    return make


@pytest.fixture
def make_trainer(nnunet_folders, make_plans, make_dataset_json):
    """A function: a real trainer on the CPU, as `nnUNetv2_train` would make it, for a dataset of no cases."""
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    def make(
        trainer_class: type,
        plans: dict | None = None,
        configuration: str = "3d_fullres",
        kind: str = "labels",
    ):
        plans = {**(plans or make_plans()), "continue_training": False}
        folder: Path = nnunet_folders.preprocessed / plans["dataset_name"]
        data = folder / PlansManager(plans).get_configuration(configuration).data_identifier
        data.mkdir(parents=True, exist_ok=True)
        (data / "case.b2nd").touch()  # tells nnU-Net which format the data have
        (folder / "dataset_fingerprint.json").write_text(json.dumps({}))
        return trainer_class(plans, configuration, 0, make_dataset_json(kind), torch.device("cpu"))

    return make


@pytest.fixture
def make_batch():
    """A function: a random batch for an initialised trainer, with one target per supervised scale."""
    import torch

    def make(trainer) -> dict:
        generator = torch.Generator().manual_seed(0)
        grid = trainer.configuration_manager.patch_size
        scales = trainer._get_deep_supervision_scales()
        grids = [[round(size * s) for size, s in zip(grid, scale, strict=True)] for scale in scales]
        n_heads = trainer.label_manager.num_segmentation_heads
        if trainer.label_manager.has_regions:
            shapes = [(trainer.batch_size, n_heads, *g) for g in grids]
            target = [torch.randint(0, 2, shape, generator=generator).bool() for shape in shapes]
        else:
            n_labels = n_heads + trainer.label_manager.has_ignore_label
            shapes = [(trainer.batch_size, 1, *g) for g in grids]
            target = [torch.randint(0, n_labels, shape, generator=generator).float() for shape in shapes]
        data = torch.randn(trainer.batch_size, trainer.num_input_channels, *grid, generator=generator)
        return {"data": data, "target": target}

    return make
