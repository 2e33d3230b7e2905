"""Numbers that are not finite: whether there are any, in which tensors, and from which layer they come.

Of a network that puts out NaN an argmax makes background, and nothing else tells. So weights are checked
where they come in, the loss where a network is trained, and its output everywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.io.messages import join_names

COMPILE = "nnUNet_compile"  # nnU-Net's variable
USE_OTHERS = "Take an earlier checkpoint, or train anew (in float32 or bfloat16, if it was float16)."


class NonFiniteError(ValueError):
    """NaN or infinity among numbers that a result would rest on."""


class NonFiniteWeightsError(NonFiniteError):
    """NaN or infinity among the weights, so that no result of this network can be right."""


class _FirstNonFinite(Exception):
    """Ends the second pass at the layer that was looked for."""


def is_finite(value: Any) -> bool:
    """Whether all numbers in `value`, a tensor or nested sequence of them, are finite.

    A sum is finite only if every summand is. It is one pass without a copy, so it is asked first; values so
    large that their sum overflows are then looked at one by one.
    """
    if isinstance(value, (list, tuple)):
        return all(is_finite(item) for item in value)
    if not isinstance(value, Tensor) or value.is_meta:
        return True
    if not (value.is_floating_point() or value.is_complex()):
        return True
    if value.itemsize == 1:  # float8, of which torch only knows the conversion
        value = value.float()
    total = value.sum(dtype=torch.promote_types(value.dtype, torch.float32))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())


def non_finite_names(tensors: Mapping[str, Any]) -> list[str]:
    """Names of tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if not is_finite(value)]


def check_finite(tensors: Mapping[str, Any], holder: object, advice: str) -> None:
    """Raise NonFiniteWeightsError, with the names, for tensors that hold NaN or infinity."""
    if names := non_finite_names(tensors):
        raise NonFiniteWeightsError(
            f"{holder}: {len(names)} of {len(tensors)} tensors hold NaN or infinity: {join_names(names, 3)}. "
            f"{advice}"
        )


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each under one name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def unwrap_model(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of DDP (`module`) and torch.compile (`_orig_mod`)."""
    for wrapper in ("module", "_orig_mod", "module"):
        network = getattr(network, wrapper, network)
    return network


def guard_output(network: nn.Module) -> nn.Module:
    """The network itself; from now on it raises NonFiniteError rather than return such logits, or any logits
    by weights that hold NaN or infinity, which some layers take in without a trace.

    Not in training, where the loss is watched, and not while torch compiles, exports or traces it, when there
    are no numbers yet.
    """
    network.register_load_state_dict_post_hook(_note_new_weights)
    network.register_forward_hook(_check_hook, with_kwargs=True)
    return network


def check_loaded_weights(network: nn.Module, _: object = None) -> None:
    """Hook of `load_state_dict`, whoever calls it: raise NonFiniteWeightsError for NaN and infinity."""
    check_finite(tensors_of(network), "the weights loaded", USE_OTHERS)


def _note_new_weights(network: Any, _: object) -> None:
    """Hook of `load_state_dict`: have the weights looked at with the next output, when case and layer are
    known; of a network that nnU-Net compiles for prediction, which cannot do that, at once."""
    network.has_checked_weights = False
    if os.environ.get(COMPILE, "").lower() in ("true", "1", "t"):
        check_loaded_weights(network)


def _check_hook(network: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
    if network.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    check_output(network, next(iter((*inputs, *named.values()))), output)
    if not getattr(network, "has_checked_weights", False):
        check_finite(tensors_of(network), "the network's weights", USE_OTHERS)
        network.has_checked_weights = True


def check_output(network: nn.Module, data: Tensor, output: Any) -> None:
    """Raise NonFiniteError, with the layer and weights to blame, unless the output for `data` is finite."""
    if is_finite(output):
        return
    if not is_finite(data):
        raise NonFiniteError("The network's input is not finite (NaN or infinity): check the image.")
    broken = non_finite_names(tensors_of(network))
    layer = first_non_finite_layer(network, data) or "On a second pass every layer's output is finite."
    message = f"The network's output is not finite (NaN or infinity). {layer}"
    if broken:
        raise NonFiniteWeightsError(
            f"{message} Weights that hold NaN or infinity: {join_names(broken, 3)}. {USE_OTHERS}"
        )
    raise NonFiniteError(message)


@torch.no_grad()
def first_non_finite_layer(network: nn.Module, data: Tensor) -> str | None:
    """A sentence on the layer where a second forward pass meets the first value that is not finite; None if
    it meets none. The pass runs as nnU-Net's does: under autocast on CUDA, without elsewhere."""
    with _watched(network), torch.autocast("cuda", enabled=data.is_cuda):
        try:
            network(data)
        except (_FirstNonFinite, NonFiniteWeightsError) as found:  # the latter by the guard, of the weights
            return str(found)
    return None


@contextmanager
def _watched(network: nn.Module) -> Iterator[None]:
    """Within it a forward pass ends with `_FirstNonFinite` at the first layer to put out such a value."""
    handles = [  # on the network itself before the guard of its output, which would begin a third pass
        module.register_forward_hook(_stop_at(name), prepend=module is network)
        for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stop_at(name: str) -> Callable[..., None]:
    """A hook that knows its layer by name; hooks of inner layers run before those of outer ones."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not is_finite(output):
            source = "from finite input" if is_finite(inputs) else "from input that is not finite either"
            raise _FirstNonFinite(
                f"The first layer whose output is not finite is {name or 'the network'} "
                f"({type(module).__name__}), {source}."
            )

    return hook
