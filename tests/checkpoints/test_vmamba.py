"""VMamba's weights: which tensors go where, by the shapes that its files have."""

import json

import pytest
import torch
from golden_files import SAMPLES

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict
from nnunet_mamba.checkpoints.vmamba import load_vmamba


def vmamba(size="tiny"):
    """A state dict of the published file's keys and shapes, each tensor filled with a number of its own."""
    shapes = json.loads((SAMPLES / "vmamba_v0_keys.json").read_text())[size]
    return {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}


def newer_names(state_dict):
    replacements = [
        ("patch_embed.proj", "patch_embed.0"),
        ("patch_embed.norm", "patch_embed.2"),
        (".ln_1.", ".norm."),
        (".self_attention.", ".op."),
        (".downsample.norm.", ".downsample.1."),
        (".downsample.reduction.", ".downsample.2."),
    ]
    result = {}
    for key, value in state_dict.items():
        for old, new in replacements:
            key = key.replace(old, new)
        result[f"classifier.{key}" if key.startswith(("norm.", "head.")) else key] = value
    return result


@pytest.mark.parametrize(
    ("name", "channels", "encoder", "decoder", "total"),
    [  # counted in the networks' own code
        ("vm_unet", 3, 117, 91, 222),
        ("vm_unet", 1, 117, 91, 222),
        ("mamba_unet", 1, 117, 80, 218),  # its final norm, an encoder's there, is a decoder's with us
        ("swin_umamba", 1, 205, 0, 257),
        ("swin_umamba_d", 3, 208, 0, 312),
        ("swin_umamba_d", 1, 204, 0, 312),
    ],
)
@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("naming", [dict, newer_names], ids=["first names", "newer names"])
def test_as_many_tensors_as_in_the_papers_code(name, channels, encoder, decoder, total, size, naming):
    network = create_network(name, input_channels=channels, num_classes=4)
    report = load_vmamba(network, naming(vmamba(size)), name)
    assert sum(key.startswith("encoder.") for key in report.loaded) == encoder
    assert sum(key.startswith("decoder.") for key in report.loaded) == decoder
    assert len(report.loaded) + len(report.untouched) == total == len(network.state_dict())
    assert f"fill {encoder + decoder} of {total}" in str(report)


def test_each_tensor_is_where_its_code_puts_it():
    source = vmamba()
    weights = convert_state_dict(source, "vmamba", name="vm_unet", num_classes=2, input_channels=3)
    expected = {
        "encoder.layers.2.1.self_attention.A_logs": "layers.2.blocks.1.self_attention.A_logs",
        "encoder.downsamples.0.reduction.weight": "layers.0.downsample.reduction.weight",
        "decoder.layers.0.0.ln_1.bias": "layers.3.blocks.0.ln_1.bias",
        "decoder.layers.3.0.self_attention.Ds": "layers.0.blocks.0.self_attention.Ds",
    }
    assert {key: weights[key].flatten()[0] for key in expected} == {
        key: source[origin].flatten()[0] for key, origin in expected.items()
    }
    mirrored = convert_state_dict(source, "vmamba", name="mamba_unet")
    assert torch.equal(
        mirrored["decoder.layers.2.1.self_attention.Ds"], source["layers.0.blocks.1.self_attention.Ds"]
    )


def test_other_channels_keep_their_own_patch_embedding():
    network = create_network("vm_unet", input_channels=5, num_classes=2)
    before = network.encoder.patch_embed.proj.weight.clone()
    report = load_vmamba(network, vmamba(), "vm_unet")
    assert torch.equal(network.encoder.patch_embed.proj.weight, before)
    assert "encoder.patch_embed.proj.weight" in report.untouched
    assert "patch_embed.proj.weight" in report.unused


def test_refusals_say_why():
    network = create_network("vm_unet", input_channels=3, num_classes=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    later = {key: value[..., :1] if key.endswith("A_logs") else value for key, value in vmamba().items()}
    with pytest.raises(ValueError, match=r"later VMamba \(states per channel: \[1\], expected 16"):
        load_vmamba(network, later, "vm_unet")
    with_mlp = vmamba() | {"layers.0.blocks.0.mlp.fc1.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="later VMamba"):
        load_vmamba(network, with_mlp, "vm_unet")
    with pytest.raises(ValueError, match=r"has shape \(128,.*weights of the same width"):
        load_vmamba(network, vmamba("base"), "vm_unet")
    with pytest.raises(ValueError, match="not a state dict of VMamba"):
        load_vmamba(network, {"conv.weight": torch.ones(1)}, "vm_unet")
    with pytest.raises(ValueError, match="mm_unet has no place for them"):
        load_vmamba(network, vmamba(), "mm_unet")
    with pytest.raises(ValueError, match="say which by name="):
        convert_state_dict(vmamba(), "vmamba")
    broken = {
        key: value / 0 if key == "layers.1.blocks.0.ln_1.bias" else value for key, value in vmamba().items()
    }
    with pytest.raises(
        ValueError, match=r"this state dict of VMamba: 2 of 208 .*encoder.layers.1.0.ln_1.bias"
    ):
        load_vmamba(network, broken, "vm_unet")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
