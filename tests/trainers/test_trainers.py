"""The trainers, as nnU-Net handles them: names, recipes, networks, checkpoints."""

import inspect
import pickle
import sys
import warnings
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba import trainers
from nnunet_mamba.trainers import base, nnUNetTrainerMMUNet, nnUNetTrainerUMambaBot
from nnunet_mamba.trainers.recipe_trainer import compute_deep_supervision_weights
from nnunet_mamba.trainers.variants import make_variant

BASELINES = ("SegResNet", "UNETR", "SwinUNETR", "SwinUNETRv2", "MedNeXtS")
FULL = (
    "nnUNetTrainerMMUNet",
    "nnUNetTrainerUMambaBot",
    "nnUNetTrainerMMUNetNoSSM",
    "nnUNetTrainerUMambaBotNoSSM",
)
EPOCHS = {"_1epoch": 1, "_20epochs": 20, "_100epochs": 100, "_750epochs": 750, "_8000epochs": 8000}


def named(name: str) -> type:
    return getattr(trainers, name)


def test_every_promised_trainer_is_public():
    assert {full + suffix for full in FULL for suffix in ("", *EPOCHS, "_demo", "_smoke")} <= set(
        trainers.__all__
    )


def test_trainer_classes_can_be_pickled():
    for name in trainers.__all__:
        trainer_class = named(name)
        assert trainer_class.__name__ == trainer_class.__qualname__ == name
        assert pickle.loads(pickle.dumps(trainer_class)) is trainer_class


def test_no_name_collides_with_nnunets_folder_grammar():
    """nnU-Net splits folder names TRAINER__PLANS__CONFIGURATION at the double underscore."""
    assert not [name for name in trainers.__all__ if "__" in name]


def test_twins_differ_from_their_trainer_in_the_network_alone():
    for full in (nnUNetTrainerMMUNet, nnUNetTrainerUMambaBot):
        twin = named(f"{full.__name__}NoSSM")
        assert twin.network_name == f"{full.network_name}_nossm"
        assert (twin.recipe, twin.n_supervised_scales) == (full.recipe, full.n_supervised_scales)


@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize(("suffix", "epochs"), [("", 1000), *EPOCHS.items()])
def test_a_suffix_sets_the_length_and_nothing_else(make_trainer, full, suffix, epochs):
    trainer = make_trainer(named(full + suffix))
    assert trainer.num_epochs == epochs
    assert trainer.initial_lr == (1e-3 if "MMUNet" in full else 1e-2)
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (250, 50)


def test_settings_of_a_variant_add_to_those_that_it_varies():
    slow = make_variant(nnUNetTrainerMMUNet, "_slow", settings={"initial_lr": 1e-4, "num_epochs": 7})
    assert make_variant(slow, "_5epochs", settings={"num_epochs": 5}).settings == {
        "initial_lr": 1e-4,
        "num_epochs": 5,
    }


def test_the_constructor_has_nnunets_signature():
    ours, theirs = (inspect.signature(c.__init__).parameters for c in (nnUNetTrainerMMUNet, nnUNetTrainer))
    assert list(ours) == list(theirs)
    assert ours["device"].default == theirs["device"].default


def test_both_of_nnunets_call_sites_see_the_new_signature(make_trainer):
    """nnU-Net inspects the class (prediction) and the instance (training) for a parameter `plans_manager`."""
    for owner in (nnUNetTrainerMMUNet, make_trainer(nnUNetTrainerMMUNet)):
        names = list(inspect.signature(owner.build_network_architecture).parameters)
        assert names == list(inspect.signature(nnUNetTrainer.build_network_architecture).parameters)


# deep supervision


@pytest.mark.parametrize(
    ("n_stages", "expected"),
    [
        (6, (4 / 7, 2 / 7, 1 / 7)),
        (4, (4 / 7, 2 / 7, 1 / 7)),
        (3, (2 / 3, 1 / 3)),
        (2, (1.0,)),
    ],
)
def test_mm_unet_supervises_the_three_largest_scales(make_trainer, make_plans, n_stages, expected):
    trainer = make_trainer(nnUNetTrainerMMUNet, make_plans(n_stages))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = trainer._build_loss()
    assert loss.weight_factors == pytest.approx(expected)
    assert trainer._get_deep_supervision_scales() == [[0.5**i] * 3 for i in range(len(expected))]


@pytest.mark.parametrize("n_stages", [6, 4, 3])
def test_u_mamba_supervises_as_nnunet_does_but_for_a_gradient_in_the_coarsest_head(
    make_trainer, make_plans, n_stages
):
    ours = make_trainer(nnUNetTrainerUMambaBot, make_plans(n_stages))
    theirs = make_trainer(nnUNetTrainer, make_plans(n_stages))
    weights = ours._build_loss().weight_factors
    assert weights == pytest.approx(theirs._build_loss().weight_factors, abs=1e-6)
    assert 0 < weights[-1] < 1e-6
    assert ours._get_deep_supervision_scales() == theirs._get_deep_supervision_scales()


def test_a_single_scale_has_all_the_weight(make_trainer, make_plans):
    """Of a plan with two stages nnU-Net itself makes the weight 0 / 0."""
    trainer = make_trainer(nnUNetTrainerUMambaBot, make_plans(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer._build_loss().weight_factors == (1.0,)


def test_five_scales_by_hand():
    assert compute_deep_supervision_weights(5, drop_coarsest=False) == pytest.approx(
        np.array([16, 8, 4, 2, 1]) / 31
    )


# the network in training


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("full", FULL)
def test_every_parameter_has_a_gradient_in_every_step(
    make_trainer, make_plans, make_batch, full, configuration
):
    """DDP, as nnU-Net sets it up, stops at a parameter without one. Five stages: more than are supervised."""
    trainer = make_trainer(named(full), make_plans(5, patch=(32,) * int(configuration[0])), configuration)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    result = trainer.train_step(make_batch(trainer))
    assert np.isfinite(result["loss"])
    assert [name for name, p in trainer.network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("patch", [(8, 24, 16), (9, 30, 25)], ids=str)
@pytest.mark.parametrize("full", FULL)
def test_each_scale_meets_a_target_of_its_own_shape(make_trainer, make_plans, make_batch, full, patch):
    """Also where strides are anisotropic and do not divide the patch; nnU-Net drops surplus targets."""
    plans = make_plans(4, patch=patch)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 1]], kernel_sizes=[[1, 3, 3]] + [[3, 3, 3]] * 3
    )
    trainer = make_trainer(named(full), plans)
    trainer.initialize()
    batch = make_batch(trainer)
    logits = trainer.network(batch["data"])
    assert [y.shape[2:] for y in logits] == [target.shape[2:] for target in batch["target"]]


@pytest.mark.parametrize("kind", ["labels", "regions", "ignore"])
def test_training_learns_a_constant_target(make_trainer, make_batch, kind):
    torch.manual_seed(0)
    trainer = make_trainer(named("nnUNetTrainerMMUNet_demo"), kind=kind)
    trainer.initialize()
    batch = make_batch(trainer)
    batch["target"] = [torch.ones_like(target) for target in batch["target"]]
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(15)]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("full", FULL)
def test_validation_takes_the_finest_scale(make_trainer, make_batch, full):
    trainer = make_trainer(named(full))
    trainer.initialize()
    trainer.network.eval()
    with torch.no_grad():
        result = trainer.validation_step(make_batch(trainer))
    voxels = trainer.batch_size * 16**3
    assert 0 < result["tp_hard"].sum() + result["fp_hard"].sum() + result["fn_hard"].sum() <= 2 * voxels


SSM_PARAMETERS = ("A_log", ".D", "dt_proj.bias", "conv1d.weight", "conv1d.bias")


@pytest.mark.parametrize("full", ["nnUNetTrainerMMUNet", "nnUNetTrainerUMambaBot"])
def test_nnunets_initialisation_leaves_the_state_space_alone(make_trainer, full):
    """nnU-Net applies `initialize` to every module; the mixers' own initialisation must survive it."""
    trainer = make_trainer(named(full))
    trainer.initialize()
    network = trainer.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.123)
    network.apply(network.initialize)
    state = network.state_dict()
    ssm = {name for name in state if name.endswith(SSM_PARAMETERS)}
    assert len(ssm) >= 5
    assert all(bool((state[name] == 0.123).all()) for name in ssm)
    kernels = [name for name, value in state.items() if name not in ssm and value.ndim == 5]
    assert kernels
    assert not any(bool((state[name] == 0.123).all()) for name in kernels)


@pytest.mark.parametrize("full", FULL)
def test_prediction_builds_the_network_that_training_saved(make_trainer, tmp_path, full):
    trainer = make_trainer(named(full))
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    plans = PlansManager(checkpoint["init_args"]["plans"])
    network = named(checkpoint["trainer_name"]).build_network_architecture(
        plans, plans.get_configuration("3d_fullres"), 1, 3, enable_deep_supervision=False
    )
    network.load_state_dict(checkpoint["network_weights"])
    assert network(torch.randn(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_no_full_patch_trace_for_a_plot(make_trainer, monkeypatch):
    """With `hiddenlayer` installed nnU-Net would trace the network."""
    monkeypatch.setitem(sys.modules, "hiddenlayer", None)  # an attempt to import it would be logged
    trainer = make_trainer(nnUNetTrainerMMUNet)
    trainer.plot_network_architecture()
    assert "plot" not in Path(trainer.log_file).read_text()


# the demo


@pytest.mark.parametrize("full", FULL)
def test_the_demo_cuts_the_plans_and_saves_the_cut_ones(make_trainer, make_plans, tmp_path, full):
    plans = make_plans(4, patch=(40, 56, 40), features=32)
    plans["configurations"]["2d"]["patch_size"] = [56, 40]
    trainer = make_trainer(named(f"{full}_demo"), plans)
    assert trainer.configuration_manager.patch_size == [32, 40, 32]
    assert trainer.plans_manager.plans["configurations"]["3d_fullres"]["patch_size"] == [32, 40, 32]
    assert trainer.my_init_kwargs["plans"]["configurations"]["3d_fullres"]["patch_size"] == [32, 40, 32]
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [40, 56, 40]  # the caller's stay


def test_the_demo_goes_on_from_its_checkpoint(make_trainer, make_plans, tmp_path):
    """`--c` builds the trainer from the stock plans again, then loads."""
    plans = make_plans(4, patch=(40, 56, 40), features=32)
    plans["configurations"]["2d"]["patch_size"] = [56, 40]
    demo = named("nnUNetTrainerMMUNet_demo")
    first = make_trainer(demo, plans)
    first.initialize()
    first.current_epoch = 6
    first.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    second = make_trainer(demo, plans)
    second.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert second.current_epoch == 7
    for name, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value)


def test_the_demo_learns_fast_by_less_momentum_and_a_larger_rate(make_trainer):
    """Of the same long-run step as nnU-Net's: rate / (1 - momentum) = 1."""
    trainer = make_trainer(named("nnUNetTrainerUMambaBot_demo"))
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert (group["momentum"], group["lr"], group["nesterov"]) == (0.9, 0.1, True)
    assert group["lr"] / (1 - group["momentum"]) == pytest.approx(1e-2 / (1 - 0.99))


def test_the_demo_saves_often_enough_to_be_interrupted(make_trainer):
    trainer = make_trainer(named("nnUNetTrainerMMUNet_demo"))
    assert trainer.num_epochs * trainer.num_iterations_per_epoch <= 2000
    assert trainer.save_every * trainer.num_iterations_per_epoch <= 100


# the smoke test


@pytest.mark.parametrize(
    "name", [*("MMUNet", "UMambaBotNoSSM", "VMUNet", "VMUNetPaper", "SegMamba", "Control"), *BASELINES]
)
def test_every_kind_of_trainer_has_a_smoke_test_of_few_steps_on_small_patches(make_trainer, make_plans, name):
    plans = make_plans(4, patch=(80, 96, 80), features=32)
    plans["configurations"]["2d"]["patch_size"] = [512, 512]
    configuration = "2d" if name.startswith("VMUNet") else "3d_fullres"
    trainer = make_trainer(named(f"nnUNetTrainer{name}_smoke"), plans, configuration)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (
        1,
        4,
        2,
    )
    assert prod(trainer.configuration_manager.patch_size) <= 40960
    assert trainer.configuration_manager.batch_size <= 8  # a paper's batch of 32 would take a minute a step
    managers = trainer.plans_manager, trainer.configuration_manager
    trainer.build_network_architecture(*managers, 1, 3, enable_deep_supervision=False)


def test_a_smoke_test_validates_the_smallest_case_alone_and_with_one_exporter(make_runnable, monkeypatch):
    trainer = make_runnable(make_variant(named("nnUNetTrainerControl"), "_one", max_validation_cases=1))
    folder = Path(trainer.preprocessed_dataset_folder)
    validate = trainer.do_split()[1]
    assert len(validate) > 1  # in training
    small = validate[-1]
    for case in validate[:-1]:
        (folder / f"{case}.more").write_bytes(bytes(1 << 16))
    seen = []

    def stock(self, save_probabilities):
        seen.append((self.do_split()[1], trainer_module.default_num_processes))

    monkeypatch.setattr(trainer_module.nnUNetTrainer, "perform_actual_validation", stock)
    monkeypatch.setattr(trainer_module, "default_num_processes", 8)
    trainer.perform_actual_validation()
    assert seen == [([small], 1)]
    assert trainer.do_split()[1] == validate and trainer_module.default_num_processes == 8
    named("nnUNetTrainerControl").perform_actual_validation(trainer_like(trainer))
    assert seen[1] == (validate, 8)


def trainer_like(trainer):
    """The same trainer without its limit."""
    trainer.max_validation_cases = None
    return trainer


def test_steps_of_an_epoch_are_told_on_the_console_if_asked(make_runnable, monkeypatch, capsys):
    monkeypatch.setenv("NNUNET_MAMBA_PROGRESS", "1")
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(base.time, "monotonic", lambda: next(clock))
    trainer = make_runnable(named("nnUNetTrainerControl"), settings={"num_epochs": 1})
    trainer.run_training()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if " step " in line] == [
        "training step 1/2",
        "training step 2/2",
        "validation step 1/1",
    ]
    assert "training step" not in Path(trainer.log_file).read_text()


def test_steps_are_not_told_unasked_nor_too_often(make_runnable, monkeypatch, capsys):
    trainer = make_runnable(named("nnUNetTrainerControl"), settings={"num_epochs": 1})
    trainer.run_training()
    monkeypatch.setenv("NNUNET_MAMBA_PROGRESS", "3600")
    make_runnable(named("nnUNetTrainerControl"), "other", settings={"num_epochs": 1}).run_training()
    assert " step " not in capsys.readouterr().out
