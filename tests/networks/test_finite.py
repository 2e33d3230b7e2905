"""What is not finite is found, wherever it is, and named with the layer that it comes from."""

import copy
import pickle

import pytest
import torch
from torch import nn

from nnunet_mamba.networks.finite import (
    NonFiniteError,
    NonFiniteWeightsError,
    check_finite,
    check_output,
    first_non_finite_layer,
    get_tensors,
    guard_output,
    is_finite,
    unwrap_model,
)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_among_many_is_enough(dtype, value):
    numbers = torch.ones(1000)
    assert is_finite(numbers.to(dtype))
    numbers[777] = value
    assert not is_finite(numbers.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_numbers_whose_sum_overflows_are_finite(dtype):
    assert is_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))


def test_infinities_that_cancel_are_not_finite():
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


def test_what_is_no_floating_point_number_is_finite():
    for value in (
        torch.tensor([1, 2]),
        torch.tensor([True]),
        torch.empty(0),
        torch.empty(3, device="meta"),
        "a",
    ):
        assert is_finite(value)
    assert not is_finite([torch.ones(1), (torch.ones(1), torch.tensor([torch.nan]))])


def test_tensors_are_counted_and_the_first_named():
    tensors = {f"w{k}": torch.tensor([1.0, torch.nan if k > 1 else 1.0]) for k in range(7)}
    with pytest.raises(
        NonFiniteWeightsError,
        match=r"^best.pth: 5 of 7 tensors hold NaN or infinity: w2, w3, w4 and 2 more\. Take another\.$",
    ):
        check_finite(tensors, "best.pth", "Take another.")
    check_finite({"w0": tensors["w0"], "name": "not a tensor"}, "best.pth", "")


def test_each_tensor_of_a_network_has_one_name():
    shared = nn.Linear(2, 2)
    network = nn.Sequential(shared, shared, nn.BatchNorm1d(2))
    assert {"0.weight", "0.bias", "2.running_var"} <= set(get_tensors(network))
    assert "1.weight" not in get_tensors(network)


class Late(nn.Module):
    """Divides its layers' output by zero, outside of any layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.n_passes = nn.Linear(2, 2), 0

    def forward(self, x):
        self.n_passes += 1
        return self.layer(x) / 0


def test_the_output_is_guarded_in_evaluation_only():
    network = guard_output(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    x = torch.ones(1, 2)
    network.eval()(x)
    with torch.no_grad():
        network[0].bias[1] = torch.nan
    with pytest.raises(
        NonFiniteWeightsError, match=r"is 0 \(Linear\), from finite input\. Weights .*: 0\.bias\."
    ):
        network(x)
    assert network.train()(x).isnan().any()


def test_a_network_that_overflows_in_itself_is_passed_twice_and_no_more():
    network = guard_output(Late()).eval()
    with pytest.raises(NonFiniteError, match=r"is the network \(Late\)") as raised:
        network(torch.ones(1, 2))
    assert raised.type is NonFiniteError  # the weights are in order
    assert network.n_passes == 2


def test_input_that_is_not_finite_is_the_images_fault():
    with pytest.raises(NonFiniteError, match=r"The network's input is not finite .* check the image"):
        guard_output(nn.Linear(2, 2)).eval()(torch.tensor([[torch.nan, 0.0]]))


def test_values_between_layers_are_found_at_the_next_layer():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.second(self.first(x) / 0)

    found = first_non_finite_layer(Between(), torch.ones(1, 2))
    assert "is second (Linear), from input that is not finite either" in found
    assert first_non_finite_layer(nn.Linear(2, 2), torch.ones(1, 2)) is None


def test_a_guarded_network_can_still_be_copied_compiled_and_exported():
    network = guard_output(nn.Sequential(nn.Linear(2, 2))).eval()
    x = torch.ones(1, 2)
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteWeightsError):
        pickle.loads(pickle.dumps(broken))(x)
    torch.export.export(network, (x,))
    torch.jit.trace(network, x)
    compiled = torch.compile(broken, backend="eager", fullgraph=True)
    output = compiled(x)  # unguarded: a predictor checks what it gets
    with pytest.raises(NonFiniteWeightsError):
        check_output(unwrap_model(compiled), x, output)


def test_networks_without_numbers_pass():
    with torch.device("meta"):
        network = guard_output(nn.Linear(2, 2)).eval()
        assert network(torch.empty(1, 2)).is_meta


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_a_guarded_network_finds_weights_that_leave_no_trace(value):
    """A bias of minus infinity before a ReLU: the output is finite, and wrong."""
    layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    network, data = guard_output(layers).eval(), torch.ones(1, 1, 4, 4)
    good = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict({**good, "0.bias": torch.full((2,), -torch.inf)})
    for _ in range(2):
        with pytest.raises(NonFiniteWeightsError, match=r"1 of 4 tensors hold NaN or infinity: 0\.bias"):
            network(data)
    network.load_state_dict(good)
    assert network(data).isfinite().all()
    network.load_state_dict({**good, "2.bias": torch.full((1,), value)})
    with pytest.raises(NonFiniteWeightsError, match=r"2\.bias"):
        network(data)


def test_a_guarded_network_that_nnunet_compiles_for_prediction_is_looked_at_when_it_is_loaded(monkeypatch):
    network = guard_output(nn.Conv2d(1, 1, 1))
    monkeypatch.setenv("nnUNet_compile", "True")
    with pytest.raises(NonFiniteWeightsError, match="bias"):
        network.load_state_dict({**network.state_dict(), "bias": torch.full((1,), torch.nan)})


def test_a_guarded_network_can_be_called_by_keyword():
    network = guard_output(nn.Conv2d(1, 1, 1)).eval()
    assert network(input=torch.ones(1, 1, 2, 2)).shape == (1, 1, 2, 2)
    with pytest.raises(NonFiniteError, match="The network's input is not finite"):
        network(input=torch.full((1, 1, 2, 2), torch.nan))
