"""Baselines: MONAI's networks in our frame and nnU-Net's trainer; the control, what stock nnU-Net trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import trainers
from nnunet_mamba.networks import baselines, list_networks
from nnunet_mamba.networks.baselines import BASELINES, create_baseline
from nnunet_mamba.trainers import nnUNetTrainerControl
from nnunet_mamba.trainers.environment import CHECKPOINT_STAGES
from nnunet_mamba.trainers.lr_schedules import Cosine, Poly
from nnunet_mamba.trainers.nan_guard import NonFiniteLossError

NAMES = {
    "SegResNet", "SegResNet_2xFeat", "SegResNet_2xFeat_2xDepth", "SegResNet_2xFeat_4xDepth", "UNETR",
    "SwinUNETR", "SwinUNETRv2", "MedNeXtS", "MedNeXtB", "MedNeXtM", "MedNeXtL",
}  # fmt: skip
IN_LITTLE = {  # one of each kind, and what makes it smaller
    "SegResNet": {"init_filters": 8},
    "UNETR": {"feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4},
    "SwinUNETR": {"feature_size": 12},
    "SwinUNETRv2": {"feature_size": 12},
    "MedNeXtS": {},
}
PATCH = (40, 33)  # a multiple of nothing


def test_names_and_lengths_are_public_and_apart_from_the_family():
    assert {f"nnUNetTrainer{n}{end}" for n in NAMES for end in ("", "_100epochs")} <= set(trainers.__all__)
    assert {trainer.network_name for trainer in trainers.BASELINES} == set(BASELINES)
    assert not set(BASELINES) & set(list_networks())
    assert "nnUNetTrainerSegResNetNoSSM" not in trainers.__all__


@pytest.mark.parametrize("name", IN_LITTLE)
def test_each_trains_and_validates_at_a_patch_that_must_be_padded(
    monkeypatch, make_trainer, make_plans, make_batch, make_single_batch, name
):
    trainer_class = getattr(trainers, f"nnUNetTrainer{name}")
    row = BASELINES[trainer_class.network_name]
    small = replace(row, options={**row.options, **IN_LITTLE[name]})
    monkeypatch.setitem(BASELINES, trainer_class.network_name, small)
    trainer = make_trainer(trainer_class, make_plans(patch=PATCH), "2d")
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    batch = (make_batch if trainer.enable_deep_supervision else make_single_batch)(trainer)
    trainer.network.train()
    assert torch.isfinite(torch.as_tensor(trainer.train_step(batch)["loss"]))
    assert [n for n, p in trainer.network.named_parameters() if p.grad is None] == []  # DDP
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(batch)


@pytest.mark.parametrize("name", ["seg_res_net", "mednext_s"])
def test_prediction_gives_one_tensor_and_loads_what_training_saved(name):
    sizes = {"input_channels": 2, "num_classes": 3, "patch_size": (20, 33, 17)}
    trained = create_baseline(name, **sizes, deep_supervision=True)
    network = create_baseline(name, **sizes)
    network.load_state_dict(trained.state_dict())
    x = torch.randn(1, 2, 20, 33, 17)
    with torch.no_grad():
        expected = trained.eval()(x)[0]
        assert torch.equal(network.eval()(x), expected)
    assert expected.shape == (1, 3, 20, 33, 17)


@pytest.mark.parametrize(
    ("names", "lr", "optimizer", "schedule"),
    [
        (("SegResNet", "SegResNet_2xFeat_4xDepth"), 1e-4, torch.optim.Adam, Poly(0.9)),
        (("UNETR",), 1e-4, torch.optim.AdamW, Poly(1.0)),
        (("SwinUNETR", "SwinUNETRv2"), 8e-4, torch.optim.AdamW, Cosine(eta_min=1e-6)),
        (("MedNeXtS", "MedNeXtL"), 1e-3, torch.optim.AdamW, Poly(0.9)),
    ],
)
def test_each_has_the_recipe_of_its_authors(names, lr, optimizer, schedule):
    for name in names:
        recipe = getattr(trainers, f"nnUNetTrainer{name}").recipe
        assert (recipe.settings["initial_lr"], recipe.optimizer, recipe.schedule) == (lr, optimizer, schedule)


def test_padding_alone_changes_no_patch_that_fits():
    network = create_baseline("seg_res_net", input_channels=1, num_classes=2, patch_size=(16, 24)).eval()
    x = torch.randn(1, 1, 16, 24)
    with torch.no_grad():
        assert torch.equal(network(x), network.decoder.network(x))


def test_unetr_refuses_a_patch_that_is_not_its_own():
    network = create_baseline("unetr", input_channels=1, num_classes=2, patch_size=(32, 20))
    assert network(torch.zeros(1, 1, 32, 20)).shape == (1, 2, 32, 20)
    with pytest.raises(ValueError, match=r"built for patches of \(32, 20\).* got \(32, 32\)"):
        network(torch.zeros(1, 1, 32, 32))


def test_errors_name_what_is_wrong(monkeypatch):
    sizes = {"input_channels": 1, "num_classes": 2}
    with pytest.raises(ValueError, match=r"Unknown baseline 'mamba'. Choose one of seg_res_net, "):
        create_baseline("mamba", **sizes, patch_size=(32, 32))
    with pytest.raises(ValueError, match=r"Patch \(32, 32\) is too small for SwinUNETR"):
        create_baseline("swin_unetr", **sizes, patch_size=(32, 32))
    monkeypatch.setitem(baselines.BASELINES, "future", baselines.Baseline("FutureNet", 8, since="9.0"))
    with pytest.raises(
        ImportError, match=r"has no FutureNet, which came with 9\.0; run: pip install 'monai>=9"
    ):
        create_baseline("future", **sizes, patch_size=(32, 32))


# the control


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


def test_the_control_comes_in_every_length(make_trainer):
    assert make_trainer(trainers.nnUNetTrainerControl_50epochs).num_epochs == 50
    assert make_trainer(nnUNetTrainerControl).num_epochs == 1000


def test_stages_of_nnunets_network_cannot_be_recomputed(make_trainer, monkeypatch):
    monkeypatch.setenv(CHECKPOINT_STAGES, "all")
    with pytest.raises(ValueError, match="the stages of nnU-Net's own network cannot be recomputed"):
        make_trainer(nnUNetTrainerControl).initialize()
