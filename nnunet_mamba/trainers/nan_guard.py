"""Guards that stop a run whose loss or whose loaded weights are not finite, and explain the cause.

A NaN that reaches the optimizer is in every weight after one step, and the run goes on for days with a dead
network.
"""

import torch
from torch import Tensor, nn

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.networks.finite import (
    check_finite,
    find_non_finite,
    first_non_finite_layer,
    get_tensors,
    is_finite,
    unwrap_model,
)


class NonFiniteLossError(RuntimeError):
    """Error of a loss that is NaN or infinite; raised before backward and optimizer step."""


def check_finite_loss(loss: nn.Module, inputs: tuple, value: Tensor) -> None:
    """Raise NonFiniteLossError unless the loss is finite; a forward hook for the loss module."""
    if not torch.isfinite(value).all():
        raise NonFiniteLossError(f"The loss is {value.item()}.")


def diagnose(network: nn.Module, data: Tensor) -> str:
    """Return one or two sentences on where the first value that is not finite comes from, by a second forward
    pass.

    Shape: data (B, C, *grid), as in the step that failed, on the device of the network.
    """
    if not is_finite(data):
        return "The input itself is not finite: check the preprocessed images of this batch."
    names = find_non_finite(get_tensors(network))
    broken = f" Not finite before this step: {join_names(names, 3)}." if names else ""
    layer = first_non_finite_layer(network, data) or (
        "On a second pass every layer's output is finite, so the loss itself is what overflows: "
        "check the labels of this batch and the size of the logits."
    )
    return layer + broken


def check_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """Raise NonFiniteWeightsError unless momentum and the like, which the next step would add to the weights,
    are finite."""
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in unwrap_model(network).named_parameters()
    }
    state = {
        f"{key} of {names.get(parameter, 'a parameter of another module')}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }
    check_finite(state, "the optimizer's state", "Its next step would put them into the weights.")
