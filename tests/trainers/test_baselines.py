"""MONAI's networks in our frame and nnU-Net's trainer."""

from dataclasses import replace

import pytest
import torch

from nnunet_mamba import trainers
from nnunet_mamba.networks import baselines, list_networks
from nnunet_mamba.networks.baselines import BASELINES, create_baseline
from nnunet_mamba.trainers.schedules import Cosine, Poly

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
    with pytest.raises(ValueError, match=r"built for a patch of \(32, 20\).* got \(32, 32\)"):
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
