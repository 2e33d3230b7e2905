"""Checks for NaN and infinity: whether there are any, in which tensors, and from which layer they come.

An argmax turns NaN into background without an error. So weights are checked when they are loaded, the loss
in training, and the output of a network everywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.io.messages import join_names

LARGE = 2**26  # values that are checked at once
COMPILE = "nnUNet_compile"  # nnU-Net's variable
USE_OTHERS = "Take an earlier checkpoint, or train anew (in float32 or bfloat16, if it was float16)."


class NonFiniteError(ValueError):
    """NaN or infinity among numbers on which a result depends."""


class NonFiniteWeightsError(NonFiniteError):
    """NaN or infinity among the weights: no result of this network can be right."""


class _FirstNonFinite(Exception):
    """Exception that ends the second pass at the first layer with such an output."""


def is_finite(value: Any) -> bool:
    """Return True if all numbers in `value`, a tensor or nested sequence of them, are finite.

    A sum is finite only if every summand is. It takes one pass without a copy, so it comes first; where it
    is not finite, which large values can cause too, every value is checked.
    """
    if isinstance(value, (list, tuple)):
        return all(is_finite(item) for item in value)
    if not isinstance(value, Tensor) or value.is_meta:
        return True
    if not (value.is_floating_point() or value.is_complex()):
        return True
    if value.numel() > LARGE and value.ndim > 1:  # on the CPU a sum of float16 makes a copy in float32
        return all(is_finite(part) for part in value)
    if value.itemsize == 1:  # float8, which torch can only convert
        value = value.float()
    total = value.sum(dtype=torch.promote_types(value.dtype, torch.float32))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())


def find_non_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if not is_finite(value)]


def check_finite(tensors: Mapping[str, Any], holder: object, advice: str) -> None:
    """Raise NonFiniteWeightsError, with their names, if tensors of `holder` hold NaN or infinity."""
    if names := find_non_finite(tensors):
        raise NonFiniteWeightsError(
            f"{holder}: {len(names)} of {len(tensors)} tensors hold NaN or infinity: {join_names(names, 3)}. "
            f"{advice}"
        )


def get_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, each under one name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def unwrap_model(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of DDP (`module`) and torch.compile (`_orig_mod`)."""
    for wrapper in ("module", "_orig_mod", "module"):
        network = getattr(network, wrapper, network)
    return network


def guard_output(network: nn.Module) -> nn.Module:
    """Let a network raise NonFiniteError instead of returning NaN or infinity, and return the network.

    It raises NonFiniteWeightsError, too, for such weights, even where the output does not show them. It
    checks nothing in training, where the loss is checked, nor while torch compiles, exports or traces it,
    when there are no numbers yet.
    """
    network.register_load_state_dict_post_hook(_note_new_weights)
    network.register_forward_hook(_check_hook, with_kwargs=True)
    return network


def check_loaded_weights(network: nn.Module, _: object = None) -> None:
    """Raise NonFiniteWeightsError for NaN and infinity; a hook of `load_state_dict`."""
    check_finite(get_tensors(network), "the weights loaded", USE_OTHERS)


def _note_new_weights(network: Any, _: object) -> None:
    """Let the next output check new weights, when case and layer are known; a hook of
    `load_state_dict`. A network that nnU-Net compiles for prediction is checked at once, for hooks on its
    output do not run."""
    network.has_checked_weights = False
    if os.environ.get(COMPILE, "").lower() in ("true", "1", "t"):
        check_loaded_weights(network)


def _check_hook(network: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
    """Check output and weights after a forward pass; a forward hook."""
    if network.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    check_output(network, next(iter((*inputs, *named.values()))), output)
    if not getattr(network, "has_checked_weights", False):
        check_finite(get_tensors(network), "the network's weights", USE_OTHERS)
        network.has_checked_weights = True


def check_output(network: nn.Module, data: Tensor, output: Any) -> None:
    """Raise NonFiniteError, with the layer and weights to blame, if the output for `data` is not finite."""
    if is_finite(output):
        return
    if not is_finite(data):
        raise NonFiniteError("The network's input is not finite (NaN or infinity): check the image.")
    broken = find_non_finite(get_tensors(network))
    layer = first_non_finite_layer(network, data) or "On a second pass every layer's output is finite."
    message = f"The network's output is not finite (NaN or infinity). {layer}"
    if broken:
        raise NonFiniteWeightsError(
            f"{message} Weights that hold NaN or infinity: {join_names(broken, 3)}. {USE_OTHERS}"
        )
    raise NonFiniteError(message)


@torch.no_grad()
def first_non_finite_layer(network: nn.Module, data: Tensor) -> str | None:
    """Return a sentence on the first layer whose output is not finite in a second forward pass, None if
    there is none. The pass runs as nnU-Net's does: under autocast on CUDA, without elsewhere."""
    with _stopping_hooks(network), torch.autocast("cuda", enabled=data.is_cuda):
        try:
            network(data)
        except (_FirstNonFinite, NonFiniteWeightsError) as found:  # the latter by `guard_output`
            return str(found)
    return None


@contextmanager
def _stopping_hooks(network: nn.Module) -> Iterator[None]:
    """Let forward passes raise `_FirstNonFinite` at the first layer whose output is not finite."""
    handles = [  # on the network itself before the guard of its output, which would start a third pass
        module.register_forward_hook(_stop_at(name), prepend=module is network)
        for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stop_at(name: str) -> Callable[..., None]:
    """Return a forward hook for the layer `name`; hooks of inner layers run before those of outer ones."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not is_finite(output):
            source = "from finite input" if is_finite(inputs) else "from input that is not finite either"
            raise _FirstNonFinite(
                f"The first layer whose output is not finite is {name or 'the network'} "
                f"({type(module).__name__}), {source}."
            )

    return hook
