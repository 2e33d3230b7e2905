"""Errors, and the state dict in a file. tests/networks/test_golden.py checks converted weights."""

import pytest
import torch
from golden_files import golden_file

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict
from nnunet_mamba.checkpoints.convert import CONVERTERS, WRAPPERS, select_weights
from nnunet_mamba.io.torch_load import Stub


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match=r"Unknown source 'vision_mamba'\. .*Choose one of umamba"):
        convert_state_dict({}, "vision_mamba")


def test_keys_of_another_code_are_refused():
    with pytest.raises(
        ValueError,
        match=r"not a state dict of umamba: none of its 1 keys is like .*dt_proj",
    ):
        convert_state_dict({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(1)}, "umamba")


def keys_of(name: str) -> list[str]:
    """Keys of a golden file, or of what U-Mamba2's repository calls U-Mamba Bot: it with U-Mamba's layer."""
    if name != "umamba2 with Mamba":
        return list(golden_file(name).about["state_dict"])
    rest = [key for key in keys_of("umamba2_3d") if not key.startswith("mamba_layer.")]
    return rest + [key for key in keys_of("umamba_bot_3d") if key.startswith("mamba_layer.")]


SOURCES = {  # whose keys -> the only source that takes them
    **dict.fromkeys(["umamba_bot_2d", "umamba_bot_3d", "umamba_enc_2d", "umamba_enc_3d"], "umamba"),
    **dict.fromkeys(["umamba2_3d", "umamba2 with Mamba"], "umamba2"),
    **dict.fromkeys(["xlstm_bot_3d", "xlstm_enc_3d", "xlstm_enc_2d_strong"], "xlstm_unet"),
    **dict.fromkeys(["taming_uni_3d", "taming_bi_3d", "taming_multi_3d"], "taming_mambas"),
    **dict.fromkeys(["lkm_unet_2d", "lkm_unet_3d"], "lkm_unet"),
    **dict.fromkeys(["swinumamba", "swinumamba_d"], "swin_umamba"),
    **{"vmunet": "vm_unet", "mambaunet": "mamba_unet", "segmamba_3d": "segmamba"},
    **dict.fromkeys(["lightm_unet_2d", "lightm_unet_3d"], "lightm_unet"),
    **{"segmamba_v2_3d": "segmamba_v2", "nnmamba_3d": "nnmamba", "nnmamba_3d_b2": "nnmamba"},
}


@pytest.mark.parametrize("name", SOURCES)
def test_keys_are_taken_by_one_source_alone(name):
    weights = dict.fromkeys(keys_of(name), torch.ones(1))
    takers = []
    for source in CONVERTERS:
        try:
            takers.append(convert_state_dict(weights, source) and source)
        except ValueError as error:
            assert "not a state dict of" in str(error)
    assert takers == [SOURCES[name]]


def test_u_mamba2_with_its_mamba_1_is_ours_with_mixer_mamba():
    config = golden_file("umamba2_3d").about["config"]
    network = create_network(
        "umamba2", mixer="mamba", input_channels=1, num_classes=3, features_per_stage=config["features"],
        strides=config["strides"], kernel_sizes=config["kernels"], n_blocks_per_stage=config["n_blocks"],
        n_conv_per_stage_decoder=config["n_conv_decoder"],
    )  # fmt: skip
    weights = dict.fromkeys(keys_of("umamba2 with Mamba"), torch.ones(1))
    assert convert_state_dict(weights, "umamba2").keys() == network.state_dict().keys()


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


WEIGHTS = {"layer.weight": torch.ones(2), "layer.bias": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_lie_under_any_of_the_usual_names(wrapper):
    content = {"epoch": 3, "optimizer_state_dict": OPTIMIZER, wrapper: WEIGHTS, "args": {"lr": 0.1}}
    found = select_weights(content, "best.pth")
    assert found.tensors == WEIGHTS
    assert (str(found), found.others) == (f"entry {wrapper}", ())


def test_as_trained_comes_before_as_averaged():
    for trained, averaged in (("model", "ema"), ("model_state_dict", "model_ema"), ("net", "state_dict_ema")):
        found = select_weights({averaged: WEIGHTS, trained: WEIGHTS}, "best.pth")
        assert str(found) == f"entry {trained} ({averaged} left aside)"


def test_what_holds_no_weights_is_no_entry():
    """A pickled module, which is not loaded, and a dict of options."""
    for other in (Stub(), {"depth": 3}, {}, "vm_unet"):
        assert select_weights({"model": other, "state_dict": WEIGHTS}, "best.pth").entry == "state_dict"


def test_an_entry_of_any_name_can_be_chosen_and_is_asked_for():
    content = {"student": WEIGHTS, "teacher": WEIGHTS, "epoch": 3}
    assert select_weights(content, "best.pth", "teacher").entry == "teacher"
    with pytest.raises(ValueError, match=r"expected tensors, found .*one of student, teacher by .*--weights"):
        select_weights(content, "best.pth")
    with pytest.raises(ValueError, match=r"best.pth has no 'ema'; it has student, teacher"):
        select_weights(content, "best.pth", "ema")


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model_state_dict": weights}])
def test_counts_of_operations_are_left_out_at_every_level(wrap):
    counts = {"total_ops": torch.zeros(1), "total_params": 7, "layer.total_ops": torch.full((1,), torch.nan)}
    assert select_weights(wrap({**WEIGHTS, **counts}), "best.pth").tensors == WEIGHTS


def test_weights_that_are_not_finite_are_named_with_file_and_entry():
    broken = {**WEIGHTS, "layer.bias": torch.tensor([0.0, torch.nan])}
    with pytest.raises(
        ValueError, match=r"^best.pth, entry model \(model_ema left aside\): 1 of 2 .*: layer.bias\."
    ):
        select_weights({"model": broken, "model_ema": WEIGHTS}, "best.pth")
    with pytest.raises(ValueError, match=r"^best.pth, the whole file: 1 of 2 "):
        select_weights(broken, "best.pth")
    assert (
        select_weights({"model": broken, "model_ema": WEIGHTS}, "best.pth", "model_ema").entry == "model_ema"
    )


def test_numbers_and_texts_beside_weights_are_left_out(tmp_path):
    weights = {"a": torch.ones(2)}
    for content in ({**weights, "epoch": 3, "arch": "x", "best": None}, {"model": {**weights, "epoch": 3}}):
        assert select_weights(content, "file").tensors.keys() == {"a"}
