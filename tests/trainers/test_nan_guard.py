"""A loss that is not finite stops the run, and the message says where it began."""

import re
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNetTrainer_module
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_mamba import trainers
from nnunet_mamba.networks.finite import NonFiniteError, NonFiniteWeightsError, unwrap_model
from nnunet_mamba.trainers import nnUNetTrainerControl, nnUNetTrainerMMUNet
from nnunet_mamba.trainers.nan_guard import NonFiniteLossError, diagnose


@pytest.fixture
def trainer(make_trainer):
    """A real trainer in epoch 3, with a checkpoint of the step before on disk."""
    trainer = make_trainer(nnUNetTrainerMMUNet)
    trainer.initialize()
    trainer.current_epoch = 3
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
    return trainer


def some_layer(network: nn.Module, kind: type[nn.Module]) -> tuple[str, nn.Module]:
    """The name and module of a layer of this kind from the middle of the network."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
    return layers[len(layers) // 2]


def poison(layer: nn.Module) -> None:
    """Let a layer put out infinity, as an overflow in half precision does."""
    layer.register_forward_hook(lambda module, inputs, output: output * torch.inf)


def weights(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def test_the_run_stops_before_the_step_and_names_epoch_iteration_and_layer(trainer, make_batch):
    batch = make_batch(trainer)
    for _ in range(2):
        trainer.train_step(batch)
    name, layer = some_layer(trainer.network, nn.InstanceNorm3d)
    before, checkpoint = weights(trainer), Path(trainer.output_folder, "checkpoint_latest.pth").read_bytes()
    poison(layer)
    with pytest.raises(NonFiniteLossError) as stopped:
        trainer.train_step(batch)
    message = str(stopped.value)
    assert "epoch 3, training iteration 2 " in message
    assert f"is {name} (InstanceNorm3d), from finite input" in message
    assert all(torch.equal(before[key], value) for key, value in trainer.network.state_dict().items())
    assert Path(trainer.output_folder, "checkpoint_latest.pth").read_bytes() == checkpoint
    assert message in Path(trainer.log_file).read_text()


def test_each_epoch_and_phase_counts_its_own_iterations(trainer, make_batch):
    batch = make_batch(trainer)
    trainer.train_step(batch)
    trainer.on_validation_epoch_start()
    _, layer = some_layer(trainer.network, nn.InstanceNorm3d)
    poison(layer)
    with torch.no_grad(), pytest.raises(NonFiniteLossError, match=r"epoch 3, validation iteration 0 "):
        trainer.validation_step(batch)
    trainer.on_train_epoch_start()
    with pytest.raises(NonFiniteLossError, match=r"epoch 3, training iteration 0 "):
        trainer.train_step(batch)


def test_the_innermost_layer_is_named_not_the_block_around_it(trainer, make_batch):
    name, layer = some_layer(trainer.network, nn.Conv3d)
    poison(layer)
    with pytest.raises(NonFiniteLossError, match=rf"is {name} \(Conv3d\)"):
        trainer.train_step(make_batch(trainer))


def test_broken_weights_are_named(trainer, make_batch):
    name, layer = some_layer(trainer.network, nn.Conv3d)
    with torch.no_grad():
        layer.weight[0] = torch.nan
    with pytest.raises(
        NonFiniteLossError, match=rf"is {name} .*Not finite before this step: {name}\.weight\."
    ):
        trainer.train_step(make_batch(trainer))


def test_broken_input_is_told_apart_from_a_broken_layer(trainer, make_batch):
    batch = make_batch(trainer)
    batch["data"][0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteLossError, match="The input itself is not finite"):
        trainer.train_step(batch)


def test_a_loss_that_overflows_from_finite_logits_is_told_apart_too(trainer, make_batch):
    heads = [m for m in trainer.network.modules() if isinstance(m, nn.Conv3d) and m.out_channels == 3]
    with torch.no_grad():
        for head in heads:  # logits of 3e38 and -3e38 are finite, their difference is not
            head.weight.zero_()
            head.bias.copy_(torch.tensor([3e38, -3e38, -3e38]))
    with pytest.raises(NonFiniteLossError, match="the loss itself is what overflows"):
        trainer.train_step(make_batch(trainer))


def test_the_guard_sees_through_compile_and_ddp(trainer, make_batch):
    class Wrapper(nn.Module):  # what DistributedDataParallel looks like from outside
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)

    bare = trainer.network
    name, layer = some_layer(bare, nn.InstanceNorm3d)
    poison(layer)
    trainer.network = Wrapper(torch.compile(bare, backend="eager"))
    assert unwrap_model(trainer.network) is bare
    with pytest.raises(NonFiniteLossError, match=rf"is {name} \(InstanceNorm3d\)"):
        trainer.train_step(make_batch(trainer))


def test_values_made_between_layers_are_seen_by_the_next_one():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.second(self.first(x) / 0)

    assert "is second (Linear), from input that is not finite either" in diagnose(Between(), torch.ones(1, 2))


def test_the_search_leaves_no_hooks_behind():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    diagnose(network, torch.ones(1, 2))
    assert not any(module._forward_hooks for module in network.modules())


# weights that come in


@pytest.fixture
def trained(trainer, make_batch):
    """A trainer with momentum, and a function: its checkpoint of that name, with one NaN in a tensor."""
    trainer.train_step(make_batch(trainer))

    def save(name: str, broken: torch.Tensor | None = None) -> str:
        file = str(Path(trainer.output_folder, name))
        before = None if broken is None else broken.detach().clone()
        with torch.no_grad():
            if broken is not None:
                broken.view(-1)[0] = torch.nan
            trainer.save_checkpoint(file)
            if broken is not None:
                broken.copy_(before)
        return file

    return trainer, save


def layer_of(trainer) -> tuple[str, nn.Parameter]:
    name, layer = some_layer(trainer.network, nn.Conv3d)
    return f"{name}.weight", layer.weight


@pytest.mark.parametrize("trainer_class", [nnUNetTrainerMMUNet, nnUNetTrainerControl])
def test_resuming_names_weights_and_file(make_trainer, trainer_class):
    trainer = make_trainer(trainer_class)
    trainer.initialize()
    name, weight = layer_of(trainer)
    with torch.no_grad():
        weight.view(-1)[0] = torch.inf
    file = str(Path(trainer.output_folder, "checkpoint_latest.pth"))
    trainer.save_checkpoint(file)
    found = rf"^{re.escape(file)}: the weights loaded: 1 of \d+ tensors hold NaN or infinity: {name}\."
    with pytest.raises(NonFiniteWeightsError, match=found + ".*No usable checkpoint in this folder"):
        make_trainer(trainer_class).load_checkpoint(file)


def test_resuming_names_momentum_too(trained, make_trainer):
    trainer, save = trained
    name, weight = layer_of(trainer)
    file = save("checkpoint_latest.pth", trainer.optimizer.state[weight]["momentum_buffer"])
    with pytest.raises(
        NonFiniteWeightsError, match=rf"the optimizer's state: 1 of .*: momentum_buffer of {name}\."
    ):
        make_trainer(nnUNetTrainerMMUNet).load_checkpoint(file)
    save("checkpoint_latest.pth")
    make_trainer(nnUNetTrainerMMUNet).load_checkpoint(file)


def test_another_checkpoint_is_offered_if_it_is_whole(trained, make_trainer):
    trainer, save = trained
    _, weight = layer_of(trainer)
    momentum = trainer.optimizer.state[weight]["momentum_buffer"]
    file = save("checkpoint_latest.pth", weight)
    save("checkpoint_previous.pth", momentum)  # by the switch from latest to previous, also broken
    Path(trainer.output_folder, "checkpoint_final.pth").write_text("cut off")
    for whole, advice in (
        (False, "No usable checkpoint in this folder"),
        (True, "checkpoint_best.pth beside it"),
    ):
        if whole:
            save("checkpoint_best.pth")
        with pytest.raises(NonFiniteWeightsError, match=advice):
            make_trainer(nnUNetTrainerMMUNet).load_checkpoint(file)


def test_pretrained_weights_are_refused_where_nnunet_loads_them(trained, make_trainer):
    trainer, save = trained
    name, weight = layer_of(trainer)
    file = save("pretrained.pth", weight)
    with pytest.raises(NonFiniteWeightsError, match=f"hold NaN or infinity: {name}"):
        maybe_load_checkpoint(make_trainer(nnUNetTrainerMMUNet), False, False, file)


def test_a_pretrained_head_does_not_matter_as_nnunet_leaves_it_out(trained, make_trainer):
    trainer, save = trained
    file = save("pretrained.pth", trainer.network.decoder.seg_layers[0].weight)
    maybe_load_checkpoint(make_trainer(nnUNetTrainerMMUNet), False, False, file)


def test_numbers_too_large_for_float32_are_not_finite_once_loaded(trainer):
    weights = {key: value.double() for key, value in trainer.network.state_dict().items()}
    next(iter(weights.values())).view(-1)[0] = 1e300
    with pytest.raises(NonFiniteWeightsError):
        trainer.network.load_state_dict(weights)


def test_a_validation_of_nothing_but_nan_fails_by_name(make_runnable, monkeypatch):
    """nnU-Net would write background and a Dice of 0."""
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setattr(nnUNetTrainer_module, "default_num_processes", 1)
    trainer = make_runnable(nnUNetTrainerMMUNet)
    trainer.initialize()
    name, layer = some_layer(trainer.network, nn.Conv2d)
    with torch.no_grad():
        layer.weight[0] = torch.nan
    _, cases = trainer.do_split()
    with pytest.raises(NonFiniteWeightsError, match=rf"^{min(cases)}, by fold 0 of .*: tile .* is {name} "):
        trainer.perform_actual_validation()
    assert f"The validation failed: {min(cases)}, by" in Path(trainer.log_file).read_text()
    assert not list(Path(trainer.output_folder, "validation").iterdir())


@pytest.mark.parametrize("name", ["nnUNetTrainerMMUNet", "nnUNetTrainerControl", "nnUNetTrainerSegResNet"])
def test_networks_as_nnunets_own_prediction_builds_them_put_out_no_nan(name, make_plans):
    """Of weights that overflow though they are finite, too."""
    if name == "nnUNetTrainerSegResNet":
        pytest.importorskip("monai")
    manager = PlansManager(make_plans(patch=(16, 16, 16)))
    configuration = manager.get_configuration("3d_fullres")
    network = getattr(trainers, name).build_network_architecture(
        manager, configuration, 1, 3, enable_deep_supervision=False
    ).eval()  # fmt: skip
    data = torch.ones(1, 1, 16, 16, 16)
    network(data)
    layer = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    with torch.no_grad():
        layer.weight.fill_(torch.finfo(torch.float32).max)
    with pytest.raises(
        NonFiniteError, match=r"The first layer whose output is not finite is .*, from finite input"
    ):
        network(data)
