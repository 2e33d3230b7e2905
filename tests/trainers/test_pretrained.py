"""VMamba's weights at the start of training: named by a variable, and never needed."""

import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.trainers.pretrained import VARIABLE, start_from_vmamba

SIZES = {
    "input_channels": 3,
    "num_classes": 2,
    "features_per_stage": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "depths_decoder": [1, 1, 1, 1],
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create_network("vm_unet", **SIZES)


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
    source = create_network("vm_unet", **SIZES)
    file_of(source, tmp_path / "vssmtiny.pth")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "vssmtiny.pth"))
    message = start_from_vmamba(network, "vm_unet")
    assert "in the encoder" in message and "vssmtiny.pth" in message
    for key in ("encoder.layers.2.0.self_attention.Ds", "encoder.layers.3.0.self_attention.in_proj.weight"):
        assert torch.equal(network.state_dict()[key], source.state_dict()[key])
    mirrored = network.state_dict()["decoder.layers.0.0.self_attention.in_proj.weight"]
    assert torch.equal(mirrored, source.state_dict()["encoder.layers.3.0.self_attention.in_proj.weight"])


def test_without_the_variable_the_log_says_from_scratch(network, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert "from scratch" in start_from_vmamba(network, "vm_unet")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_networks_without_vss_blocks_are_left_alone(network, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/nowhere.pth")
    assert start_from_vmamba(network, "mm_unet") is None


def test_a_missing_file_ends_the_run_before_training(network, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere.pth"))
    with pytest.raises(ValueError, match=r"nowhere.pth is no file; expected weights"):
        start_from_vmamba(network, "vm_unet")
