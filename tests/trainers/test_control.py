"""The control: what stock nnU-Net trains, and nothing else."""

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import trainers
from nnunet_mamba.trainers import nnUNetTrainerControl
from nnunet_mamba.trainers.checkpoint_stages import CHECKPOINT_STAGES
from nnunet_mamba.trainers.non_finite import NonFiniteLossError

RES_ENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def res_enc(plans: dict) -> dict:
    for one in plans["configurations"].values():
        architecture = one["architecture"]
        architecture["network_class_name"] = RES_ENC
        kwargs = architecture["arch_kwargs"]
        kwargs["n_blocks_per_stage"] = [1, 2, 2]
        del kwargs["n_conv_per_stage"]
    return plans


@pytest.fixture(params=["plain", "ResEnc"])
def pair(request, make_trainer, make_plans):
    """The control and stock nnU-Net from the same random numbers."""

    def make(trainer_class):
        plans = make_plans(patch=(16, 16))
        trainer = make_trainer(trainer_class, res_enc(plans) if request.param == "ResEnc" else plans, "2d")
        torch.manual_seed(0)
        trainer.initialize()
        return trainer

    return make(nnUNetTrainerControl), make(nnUNetTrainer)


def test_network_loss_and_optimizer_are_nnunets(pair):
    ours, theirs = pair
    assert type(ours.network) is type(theirs.network)
    assert ours.network.state_dict().keys() == theirs.network.state_dict().keys()
    assert ours.loss.weight_factors == theirs.loss.weight_factors
    assert type(ours.loss.loss) is type(theirs.loss.loss)
    options = [
        {key: value for key, value in trainer.optimizer.param_groups[0].items() if key != "params"}
        for trainer in pair
    ]
    assert type(ours.optimizer) is type(theirs.optimizer) and options[0] == options[1]


@pytest.mark.parametrize("epoch", [0, 1, 500, 999])
def test_learning_rates_are_nnunets(pair, epoch):
    for trainer in pair:
        trainer.lr_scheduler.step(epoch)
    ours, theirs = (trainer.optimizer.param_groups[0]["lr"] for trainer in pair)
    assert ours == theirs


def test_steps_are_nnunets_to_the_last_bit(pair, make_batch):
    for trainer in pair:
        trainer.network.train()
    losses = [[float(trainer.train_step(make_batch(trainer))["loss"]) for _ in range(3)] for trainer in pair]
    assert losses[0] == losses[1] and np.isfinite(losses).all()
    ours, theirs = (trainer.network.state_dict() for trainer in pair)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_guard_is_on(pair, make_batch):
    ours, _ = pair
    batch = make_batch(ours)
    batch["data"][:] = torch.nan
    with pytest.raises(NonFiniteLossError, match="The input itself is not finite"):
        ours.train_step(batch)


def test_it_comes_in_every_length(make_trainer):
    assert make_trainer(trainers.nnUNetTrainerControl_50epochs).num_epochs == 50
    assert make_trainer(nnUNetTrainerControl).num_epochs == 1000


def test_stages_of_nnunets_network_cannot_be_recomputed(make_trainer, monkeypatch):
    monkeypatch.setenv(CHECKPOINT_STAGES, "all")
    with pytest.raises(ValueError, match="the stages of nnU-Net's own network cannot be recomputed"):
        make_trainer(nnUNetTrainerControl).initialize()
