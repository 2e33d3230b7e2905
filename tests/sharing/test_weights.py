"""Weights as safetensors: every bit, every dtype, every name."""

import os

import pytest
import torch

from nnunet_mamba.sharing.weights import count_parameters, find_shared, read_weights, write_weights


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_pattern_of_a_dtype_comes_back(tmp_path, dtype):
    raw = torch.arange(256, dtype=torch.uint8).repeat(8)
    tensor = (raw % 2 if dtype == torch.bool else raw[torch.randperm(2048)]).view(dtype)
    shared = write_weights({"w": tensor}, tmp_path / "w")
    read = read_weights(tmp_path / "w", shared)["w"]
    assert read.dtype == dtype and bits(read) == bits(tensor)


def test_names_of_one_tensor_are_one_tensor_in_the_file_and_again_after_it(tmp_path):
    tensor = torch.randn(1000)
    weights = {"z": tensor, "a": torch.randn(1000), "m": tensor, "view": tensor.view(10, 100)}
    shared = write_weights(weights, tmp_path / "w")
    assert shared == {"z": "z", "a": "a", "m": "z", "view": "view"}
    assert 12_000 < (tmp_path / "w").stat().st_size < 13_000
    read = read_weights(tmp_path / "w", shared)
    assert list(read) == list(weights), "in the network's order"
    assert read["m"] is read["z"] and read["z"].data_ptr() != read["a"].data_ptr()
    assert read["a"].untyped_storage().nbytes() == 4000, "or torch.save would write the whole file for it"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_whoever_may_read_other_new_files_may_read_the_weights(tmp_path):
    (tmp_path / "other").touch()
    write_weights({"w": torch.ones(1)}, tmp_path / "w")
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_empty_tensors_are_not_taken_for_one():
    empty = {"a": torch.zeros(0, 2), "b": torch.zeros(0, 2)}
    assert find_shared(empty) == {"a": "a", "b": "b"}


def test_parameters_are_counted_once_and_without_statistics():
    kernel = torch.randn(2, 3)
    weights = {
        "a": kernel,
        "b": kernel,
        "n.running_mean": torch.zeros(7),
        "n.num_batches_tracked": torch.tensor(1),
    }
    assert count_parameters(weights) == 6


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"extra": 1}, "w is a dict; only dense tensors"),
        (torch.eye(2).to_sparse(), "w is a torch.sparse_coo; only dense"),
        (torch.ones(2, dtype=torch.complex128), "cannot be written as safetensors"),
        (torch.empty(2, device="meta"), "only dense tensors"),
    ],
)
def test_what_safetensors_cannot_hold_is_refused(tmp_path, value, said):
    with pytest.raises(ValueError, match=said):
        write_weights({"w": value}, tmp_path / "w")


def test_files_that_do_not_fit_their_names_are_refused(tmp_path):
    write_weights({"w": torch.ones(2), "x": torch.zeros(2)}, tmp_path / "w")
    for shared, said in (({"w": "w"}, "do not fit: x"), ({"w": "w", "x": "x", "y": "y"}, "do not fit: y")):
        with pytest.raises(ValueError, match=said):
            read_weights(tmp_path / "w", shared)
    (tmp_path / "w").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "w", {"w": "w"})
