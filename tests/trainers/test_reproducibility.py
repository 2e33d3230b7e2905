"""Seeded training: the same weights again, from the same seed only, interrupted or not."""

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform

from nnunet_mamba.trainers import (
    nnUNetTrainerControl,
    nnUNetTrainerMMUNet,
    nnUNetTrainerVMUNet,
    reproducibility,
)
from nnunet_mamba.trainers.environment import SAVE_EVERY, SEED


def final(trainer) -> dict:
    """What must be equal in the last checkpoint of two equal trainings: all but names, folders and times."""
    content = torch.load(Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=False)
    logged = {name: values for name, values in content["logging"].items() if "timestamps" not in name}
    kept = ("network_weights", "optimizer_state", "_best_ema", "current_epoch")
    return {**{name: content[name] for name in kept}, "logging": logged}


def same(one, other) -> bool:
    """Equal to the last bit; NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other or (one != one and other != other))


class _StoppedError(Exception):
    pass


def stop_at_epoch(trainer, epoch: int) -> None:
    """Run a training that is killed at the start of an epoch."""
    start = trainer.on_epoch_start

    def on_epoch_start():
        if trainer.current_epoch == epoch:
            raise _StoppedError
        start()

    trainer.on_epoch_start = on_epoch_start
    with pytest.raises(_StoppedError):
        trainer.run_training()


def folder_of(trainer) -> Path:
    return Path(trainer.output_folder)


@pytest.fixture
def trained(make_runnable, monkeypatch):
    """A function: the last checkpoint of a training with this seed."""

    def train(trainer_class, run, seed, **options) -> dict:
        monkeypatch.setenv(SEED, str(seed))
        random.seed(run)  # what was before must not matter
        torch.manual_seed(len(run))
        trainer = make_runnable(trainer_class, run, **options)
        trainer.run_training()
        return final(trainer)

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer_class", "epochs"),
    [(nnUNetTrainerMMUNet, 3), (nnUNetTrainerControl, 3), (nnUNetTrainerVMUNet, 1)],  # the last drops paths
)
def test_one_seed_gives_one_checkpoint_and_another_seed_another(trained, trainer_class, epochs):
    once, again, other = (
        trained(trainer_class, run, seed, settings={"num_epochs": epochs})
        for run, seed in (("once", 7), ("once again", 7), ("other", 8))
    )
    assert same(once, again)
    assert not same(once["network_weights"], other["network_weights"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_after_an_epoch_ends_as_the_unbroken_one(trained, make_runnable, monkeypatch, workers):
    monkeypatch.setenv(SAVE_EVERY, "1")
    unbroken = trained(nnUNetTrainerMMUNet, "unbroken", 7)
    broken = make_runnable(nnUNetTrainerMMUNet, "broken", workers=workers)
    stop_at_epoch(broken, 2)
    assert all((folder_of(broken) / f"checkpoint_{name}.pth").exists() for name in ("latest", "previous"))
    resumed = make_runnable(nnUNetTrainerMMUNet, "broken", workers=workers)
    resumed.load_checkpoint(str(folder_of(resumed) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    resumed.run_training()
    assert same(final(resumed), unbroken)
    left = {file.name for file in folder_of(resumed).glob("*.pth")}
    assert left == {"checkpoint_final.pth", "checkpoint_best.pth"}


def test_batches_do_not_depend_on_who_makes_them(make_runnable, monkeypatch):
    monkeypatch.setenv(SEED, "7")
    batches = []
    for workers in (0, 1, 3):
        trainer = make_runnable(nnUNetTrainerMMUNet, workers=workers)
        trainer.initialize()
        train, validate = trainer.get_dataloaders()
        batches.append([next(loader) for loader in (train, train, train, train, validate)])
        for loader in (train, validate):
            if workers:
                loader._finish()
    alone, *shared = batches
    assert all(same(plain(batch), plain(alone)) for batch in shared)
    assert not torch.equal(alone[0]["data"], alone[1]["data"])


def plain(batches: list[dict]) -> list:
    return [[batch["data"], list(batch["target"]), list(batch["keys"])] for batch in batches]


def test_a_resumed_run_goes_on_with_the_batch_that_was_next(make_runnable, monkeypatch):
    monkeypatch.setenv(SEED, "7")
    unbroken, resumed = make_runnable(nnUNetTrainerMMUNet), make_runnable(nnUNetTrainerMMUNet)
    resumed.current_epoch = 1  # of two batches each
    for trainer in (unbroken, resumed):
        trainer.initialize()
    all_batches, rest = unbroken.get_dataloaders()[0], resumed.get_dataloaders()[0]
    two_later = [next(all_batches) for _ in range(3)][2]
    assert same(plain([two_later]), plain([next(rest)]))


def test_making_a_batch_leaves_the_generators_of_training_alone():
    reproducibility.seed_generators(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    reproducibility.seed_generators(3)
    with reproducibility.temporary_seed(99):
        inside = random.random(), np.random.rand(), torch.rand(1)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert inside != expected


def test_seeds_for_different_uses_differ():
    paths = list(product((7, 8), range(4), range(2), range(50)))  # seed, use, rank, number
    assert len({reproducibility.derive_seed(*path) for path in paths}) == len(paths)
    assert reproducibility.derive_seed(7, 1, 0, 5) == 440_820_773  # never to change: old studies would
    assert (
        reproducibility.NETWORK,
        reproducibility.EPOCH,
        reproducibility.TRAINING,
        reproducibility.VALIDATION,
    ) == (0, 1, 2, 3)


def test_no_algorithm_is_chosen_by_the_clock():
    blurs = [GaussianBlurTransform(benchmark=True) for _ in range(3)]
    one_of = OneOfTransform([blurs[2]])
    nested = ComposeTransforms([RandomTransform(blurs[0], 0.5), ComposeTransforms([blurs[1]]), one_of])
    reproducibility.disable_benchmarks(nested)
    assert not any(blur.benchmark for blur in blurs)


def blurs_in(transform) -> list[GaussianBlurTransform]:
    if isinstance(transform, GaussianBlurTransform):
        return [transform]
    children = [*getattr(transform, "transforms", ()), getattr(transform, "transform", None)]
    return [blur for child in children if child is not None for blur in blurs_in(child)]


def test_nor_in_the_batches_of_a_seeded_training(make_runnable, monkeypatch):
    monkeypatch.setenv(SEED, "7")
    trainer = make_runnable(nnUNetTrainerMMUNet)
    trainer.initialize()
    blurs = blurs_in(trainer.get_dataloaders()[0].data_loader.loader.transforms)
    assert blurs and not any(blur.benchmark for blur in blurs)


def test_seeded_training_overrules_nnunets_choice_of_fast_algorithms(make_runnable, monkeypatch):
    monkeypatch.setenv(SEED, "0")
    trainer = make_runnable(nnUNetTrainerMMUNet)
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)  # as run_training does after construction
    monkeypatch.setattr(cudnn, "deterministic", False)
    trainer.on_train_start()
    assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    assert "Seed 0, " in Path(trainer.log_file).read_text()


def test_without_the_variable_nothing_is_seeded(make_runnable, monkeypatch):
    monkeypatch.delenv(SEED, raising=False)
    weights = []
    for _ in range(2):
        trainer = make_runnable(nnUNetTrainerMMUNet)
        trainer.initialize()
        weights.append(trainer.network.state_dict())
        assert not isinstance(trainer.get_dataloaders()[0].data_loader, reproducibility.SeededLoader)
    assert not same(*weights)
