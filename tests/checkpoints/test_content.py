"""Which of the things in a file are its weights."""

import pytest
import torch

from nnunet_mamba.checkpoints.content import WRAPPERS, weights_in
from nnunet_mamba.io.torch_load import Stub

WEIGHTS = {"layer.weight": torch.ones(2), "layer.bias": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_lie_under_any_of_the_usual_names(wrapper):
    content = {"epoch": 3, "optimizer_state_dict": OPTIMIZER, wrapper: WEIGHTS, "args": {"lr": 0.1}}
    found = weights_in(content, "best.pth")
    assert found.tensors == WEIGHTS
    assert (str(found), found.others) == (f"entry {wrapper}", ())


def test_as_trained_comes_before_as_averaged():
    for trained, averaged in (("model", "ema"), ("model_state_dict", "model_ema"), ("net", "state_dict_ema")):
        found = weights_in({averaged: WEIGHTS, trained: WEIGHTS}, "best.pth")
        assert str(found) == f"entry {trained} ({averaged} left aside)"


def test_what_holds_no_weights_is_no_entry():
    """A pickled module, which is not loaded, and a dict of options."""
    for other in (Stub(), {"depth": 3}, {}, "vm_unet"):
        assert weights_in({"model": other, "state_dict": WEIGHTS}, "best.pth").entry == "state_dict"


def test_an_entry_of_any_name_can_be_chosen_and_is_asked_for():
    content = {"student": WEIGHTS, "teacher": WEIGHTS, "epoch": 3}
    assert weights_in(content, "best.pth", "teacher").entry == "teacher"
    with pytest.raises(ValueError, match=r"expected tensors, found .*one of student, teacher by .*--weights"):
        weights_in(content, "best.pth")
    with pytest.raises(ValueError, match=r"best.pth has no 'ema'; it has student, teacher"):
        weights_in(content, "best.pth", "ema")


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model_state_dict": weights}])
def test_counts_of_operations_are_left_out_at_every_level(wrap):
    counts = {"total_ops": torch.zeros(1), "total_params": 7, "layer.total_ops": torch.full((1,), torch.nan)}
    assert weights_in(wrap({**WEIGHTS, **counts}), "best.pth").tensors == WEIGHTS


def test_weights_that_are_not_finite_are_named_with_file_and_entry():
    broken = {**WEIGHTS, "layer.bias": torch.tensor([0.0, torch.nan])}
    with pytest.raises(
        ValueError, match=r"^best.pth, entry model \(model_ema left aside\): 1 of 2 .*: layer.bias\."
    ):
        weights_in({"model": broken, "model_ema": WEIGHTS}, "best.pth")
    with pytest.raises(ValueError, match=r"^best.pth, the whole file: 1 of 2 "):
        weights_in(broken, "best.pth")
    assert weights_in({"model": broken, "model_ema": WEIGHTS}, "best.pth", "model_ema").entry == "model_ema"


def test_numbers_and_texts_beside_weights_are_left_out(tmp_path):
    weights = {"a": torch.ones(2)}
    for content in ({**weights, "epoch": 3, "arch": "x", "best": None}, {"model": {**weights, "epoch": 3}}):
        assert weights_in(content, "file").tensors.keys() == {"a"}
