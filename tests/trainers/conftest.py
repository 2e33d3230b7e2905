"""Batches also for trainers of a single output, whose target nnU-Net gives as a tensor."""

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def make_single_batch():
    """A function: a random batch for an initialised trainer without deep supervision."""

    def make(trainer) -> dict:
        generator = torch.Generator().manual_seed(0)
        grid = trainer.configuration_manager.patch_size
        n_labels = trainer.label_manager.num_segmentation_heads
        shape = (trainer.batch_size, 1, *grid)
        return {
            "data": torch.randn(trainer.batch_size, trainer.num_input_channels, *grid, generator=generator),
            "target": torch.randint(0, n_labels, shape, generator=generator).float(),
        }

    return make


@pytest.fixture
def initialised(make_trainer):
    """A function: a trainer with its network, optimizer and loss."""

    def make(trainer_class, *args, **kwargs):
        trainer = make_trainer(trainer_class, *args, **kwargs)
        trainer.initialize()
        return trainer

    return make


TINY = {"num_epochs": 3, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}


@pytest.fixture
def make_runnable(make_trainer, make_plans, nnunet_folders, monkeypatch):
    """A function: a trainer of three epochs of two steps, with six pictures to train on.

    Each `run` has results of its own. Batches are made by `workers` processes, 0: by this one.
    """
    from nnunet_mamba.trainers.variants import make_variant

    def make(trainer_class, run: str = "run", *, workers: int = 0, settings=None):
        monkeypatch.setenv("nnUNet_results", str(nnunet_folders.results / run))
        monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
        tiny = make_variant(trainer_class, "_tiny", settings={**TINY, **(settings or {})})
        trainer = make_trainer(tiny, make_plans(patch=(16, 16)), "2d")
        write_pictures(Path(trainer.preprocessed_dataset_folder))
        return trainer

    return make


def write_pictures(folder: Path) -> None:
    """Six preprocessed cases, noise with two labels, in place of the empty one of `make_trainer`."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    (folder / "case.b2nd").unlink()
    if any(folder.iterdir()):
        return  # of an earlier run
    generator = np.random.default_rng(0)
    for number in range(6):
        seg = np.zeros((1, 1, 24, 24), np.int16)
        seg[..., :8, :8], seg[..., -8:, -8:] = 1, 2
        data = generator.standard_normal(seg.shape).astype(np.float32) + seg
        places = {label: np.argwhere(seg == label) for label in (1, 2)}
        sizes = {"chunks": seg.shape, "blocks": seg.shape}
        target = str(folder / f"picture_{number}")
        nnUNetDatasetBlosc2.save_case(data, seg, {"class_locations": places}, target, **sizes)
