"""A loss that is not finite, and weights that would make it so: guards that stop the run, and what they say.

A NaN that reaches the optimizer is in every weight after one step, and the run goes on for days with a dead
network.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.networks.finite import (
    check_finite,
    first_non_finite_layer,
    is_finite,
    non_finite_names,
    tensors_of,
    unwrap_model,
)
from nnunet_mamba.trainers.saving import BEST, FINAL, LATEST, PREVIOUS


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite; raised before backward and optimizer step."""


def refuse_non_finite(loss: nn.Module, inputs: tuple, value: Tensor) -> None:
    """Forward hook for the loss module: raise unless its value is finite."""
    if not torch.isfinite(value).all():
        raise NonFiniteLossError(f"The loss is {value.item()}.")


def diagnose(network: nn.Module, data: Tensor) -> str:
    """Where the first value that is not finite comes from, in one or two sentences, by a second forward pass.

    Shape: data (B, C, *grid), as the failing step had it, on the device of the network.
    """
    if not is_finite(data):
        return "The input itself is not finite: check the preprocessed images of this batch."
    names = non_finite_names(tensors_of(network))
    broken = f" Not finite before this step: {join_names(names, 3)}." if names else ""
    layer = first_non_finite_layer(network, data) or (
        "On a second pass every layer's output is finite, so the loss itself is what overflows: "
        "check the labels of this batch and the size of the logits."
    )
    return layer + broken


def check_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """Raise NonFiniteWeightsError for momentum and the like that the next step would add to the weights."""
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in unwrap_model(network).named_parameters()
    }
    state = {
        f"{key} of {names.get(parameter, 'a parameter of another module')}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }
    check_finite(state, "the optimizer's state", "Its next step would put them into the weights.")


def another_checkpoint(broken: Path) -> str:
    """A sentence on how to go on where the checkpoint `broken` cannot be used."""
    for name in (PREVIOUS, LATEST, BEST, FINAL):
        other = broken.with_name(name)
        if other != broken and other.is_file() and _holds_finite_numbers(other):
            return f"{name} beside it is whole: copy it over {broken.name}, then run the same command again."
    return "No checkpoint beside it is whole: train anew, without --c."


def _holds_finite_numbers(checkpoint: Path) -> bool:
    try:
        content = load_restricted(checkpoint)
        state = content["optimizer_state"]["state"].values()
        return is_finite([*content["network_weights"].values(), *(list(one.values()) for one in state)])
    except (ValueError, LookupError, AttributeError, TypeError):  # no checkpoint that nnU-Net wrote
        return False
