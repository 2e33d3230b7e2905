"""VMamba's weights at the start of training: named by a variable, and never needed."""

from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import create_network
from nnunet_mamba.trainers import nnUNetTrainerVMUNet
from nnunet_mamba.trainers.environment import VMAMBA
from nnunet_mamba.trainers.mamba import initialize_from_vmamba

SMALL = {
    "features_per_stage": [8, 16, 32, 64],
    "depths": [1, 2, 1, 1],
    "depths_decoder": [1, 1, 2, 1],
}


class SmallVMUNet(nnUNetTrainerVMUNet):
    overrides = SMALL


def small_network(input_channels=3, num_classes=2):
    return create_network("vm_unet", input_channels=input_channels, num_classes=num_classes, **SMALL)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_network()


def file_of(network, path):
    """A checkpoint as VMamba's training leaves it, with the encoder of this network."""
    weights = {}
    for key, value in network.state_dict().items():
        if key.startswith("encoder.layers."):
            _, _, stage, rest = key.split(".", 3)
            weights[f"layers.{stage}.blocks.{rest}"] = value
        elif key.startswith("encoder.patch_embed."):
            weights[key.removeprefix("encoder.")] = value
    torch.save({"model": weights, "epoch": 292}, path)


def test_the_file_fills_the_network(network, tmp_path, monkeypatch):
    source = small_network()
    file_of(source, tmp_path / "vssmtiny.pth")
    monkeypatch.setenv(VMAMBA, str(tmp_path / "vssmtiny.pth"))
    message = initialize_from_vmamba(network, "vm_unet", has_weights=False)
    assert "in the encoder" in message and "vssmtiny.pth, entry model" in message
    for key in ("encoder.layers.2.0.self_attention.Ds", "encoder.layers.3.0.self_attention.in_proj.weight"):
        assert torch.equal(network.state_dict()[key], source.state_dict()[key])
    mirrored = network.state_dict()["decoder.layers.0.0.self_attention.in_proj.weight"]
    assert torch.equal(mirrored, source.state_dict()["encoder.layers.3.0.self_attention.in_proj.weight"])


def test_without_the_variable_the_log_says_from_scratch(network, monkeypatch):
    monkeypatch.delenv(VMAMBA, raising=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert "from scratch" in initialize_from_vmamba(network, "vm_unet", has_weights=False)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_networks_without_vss_blocks_are_left_alone(network, monkeypatch):
    monkeypatch.setenv(VMAMBA, "/nowhere.pth")
    assert initialize_from_vmamba(network, "mm_unet", has_weights=False) is None


def test_a_missing_file_ends_the_run_before_training(network, monkeypatch, tmp_path):
    monkeypatch.setenv(VMAMBA, str(tmp_path / "nowhere.pth"))
    with pytest.raises(ValueError, match=r"nowhere.pth is no file; expected weights"):
        initialize_from_vmamba(network, "vm_unet", has_weights=False)


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_new_training_starts_from_the_file_and_a_resumed_one_does_not(
    make_trainer, tmp_path, monkeypatch, epoch
):
    """As nnU-Net runs it: on_train_start is the first call, and the network is not there yet."""
    source = small_network(1, 3)
    file_of(source, tmp_path / "vssmtiny.pth")
    monkeypatch.setenv(VMAMBA, str(tmp_path / "vssmtiny.pth"))
    trainer = make_trainer(SmallVMUNet, configuration="2d")
    trainer.current_epoch = epoch
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    key = "encoder.layers.1.1.self_attention.in_proj.weight"
    assert torch.equal(trainer.network.state_dict()[key], source.state_dict()[key]) == (epoch == 0)
    log = Path(trainer.log_file).read_text()
    assert ("VMamba's ImageNet weights fill" in log) == (epoch == 0)


@pytest.mark.parametrize("is_set", [True, False])
def test_pretrained_weights_of_nnunet_are_kept(make_trainer, tmp_path, monkeypatch, is_set):
    """As nnUNetv2_train -pretrained_weights: nnU-Net initialises the trainer and fills the network first."""
    file_of(small_network(1, 3), tmp_path / "vssmtiny.pth")
    monkeypatch.delenv(VMAMBA, raising=False)
    if is_set:
        monkeypatch.setenv(VMAMBA, str(tmp_path / "vssmtiny.pth"))
    trainer = make_trainer(SmallVMUNet, configuration="2d")
    trainer.initialize()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    assert all(torch.equal(value, before[key]) for key, value in trainer.network.state_dict().items())
    log = Path(trainer.log_file).read_text()
    assert ("is set, but not used" in log) == is_set
    assert "from scratch" not in log
