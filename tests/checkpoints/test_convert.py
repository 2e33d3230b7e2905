"""Refusals; that converted weights are the right ones is shown in tests/networks/test_golden.py."""

import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match=r"Unknown source 'vision_mamba'\. .*Choose one of umamba"):
        convert_state_dict({}, "vision_mamba")


def test_keys_of_another_code_are_refused():
    with pytest.raises(
        ValueError,
        match=r"no state dict of umamba: none of its 1 keys is like encoder.*conv3",
    ):
        convert_state_dict({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(1)}, "umamba")


VMAMBA = {"layers.0.blocks.0.ln_1.weight": torch.ones(2), "final_up.norm.weight": torch.ones(2)}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(value):
    weights = {**VMAMBA, "final_up.norm.bias": torch.tensor([0.0, value])}
    found = r"this state dict of vm_unet: 1 of 3 tensors hold NaN or infinity: final_up\.norm\.bias\."
    with pytest.raises(ValueError, match=found):
        convert_state_dict(weights, "vm_unet")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_what_a_counter_of_operations_adds_is_left_out(prefix):
    counts = {"total_ops": 1e9, "layers.0.total_params": 3.0, "layers.0.blocks.0.ln_1.total_ops": torch.nan}
    counted = {key: torch.tensor([n], dtype=torch.float64) for key, n in counts.items()}
    weights = {f"{prefix}{key}": value for key, value in {**VMAMBA, **counted}.items()}
    assert convert_state_dict(weights, "vm_unet").keys() == convert_state_dict(VMAMBA, "vm_unet").keys()


def test_a_network_whose_operations_were_counted_loads_its_weights():
    network = create_network(
        "mm_unet", input_channels=1, num_classes=2, features_per_stage=[2, 4], strides=[[1, 1], [2, 2]],
        kernel_sizes=[[3, 3]] * 2, patch_size=(8, 8),
    )  # fmt: skip
    counted = {"total_ops": torch.zeros(1), "encoder.stages.0.total_params": torch.zeros(1)}
    network.load_state_dict({**network.state_dict(), **counted})
