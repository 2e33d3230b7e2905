"""A loss that is not finite: the guard that stops the run, and the search for the layer where it began.

A NaN that reaches the optimizer is in every weight after one step, and the run goes on for days with a dead
network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite; raised before backward and optimizer step."""


class _FirstNonFinite(Exception):
    """Ends the second pass at the layer that was looked for."""


def refuse_non_finite(loss: nn.Module, inputs: tuple, value: Tensor) -> None:
    """Forward hook for the loss module: raise unless its value is finite."""
    if not torch.isfinite(value).all():
        raise NonFiniteLossError(f"The loss is {value.item()}.")


def bare_network(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of DDP (`module`) and torch.compile (`_orig_mod`)."""
    for wrapper in ("module", "_orig_mod", "module"):
        network = getattr(network, wrapper, network)
    return network


@torch.no_grad()
def diagnose(network: nn.Module, data: Tensor) -> str:
    """Where the first value that is not finite comes from, in one or two sentences, by a second forward pass.

    Shape: data (B, C, *grid), as the failing step had it, on the device of the network. The pass runs as
    nnU-Net's does: under autocast on CUDA, without elsewhere.
    """
    if not torch.isfinite(data).all():
        return "The input itself is not finite: check the preprocessed images of this batch."
    parameters = [
        name for name, parameter in network.named_parameters() if not torch.isfinite(parameter).all()
    ]
    broken = f" Not finite before this step: {_shortened(parameters)}." if parameters else ""
    return _first_layer(network, data) + broken


def _first_layer(network: nn.Module, data: Tensor) -> str:
    with _watched(network), torch.autocast("cuda", enabled=data.is_cuda):
        try:
            network(data)
        except _FirstNonFinite as found:
            return str(found)
    return (
        "On a second pass every layer's output is finite, so the loss itself is what overflows: "
        "check the labels of this batch and the size of the logits."
    )


@contextmanager
def _watched(network: nn.Module) -> Iterator[None]:
    """Within it a forward pass ends with `_FirstNonFinite` at the first layer to put out such a value."""
    handles = [module.register_forward_hook(_stop_at(name)) for name, module in network.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stop_at(name: str) -> Callable[..., None]:
    """A hook that knows its layer by name; hooks of inner layers run before those of outer ones."""

    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        if not _finite(output):
            source = "from finite input" if _finite(inputs) else "from input that is not finite either"
            raise _FirstNonFinite(
                f"The first layer whose output is not finite is {name or 'the network'} "
                f"({type(module).__name__}), {source}."
            )

    return hook


def _finite(value: Any) -> bool:
    """Whether all floating-point tensors in `value`, a tensor or nested sequence of them, are finite."""
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, (list, tuple)):
        return all(_finite(item) for item in value)
    return True


def _shortened(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more parameters" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
