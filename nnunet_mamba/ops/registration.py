"""Registration of operators with torch.library, so that torch.compile and autograd see one opaque call each.

They use `torch.library.Library` because `torch.library.custom_op` with its autograd takes three to four times
as long, some 60 microseconds more in each call.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("nnunet_mamba", "DEF")


def define_operator(schema: str, function: Callable[..., Any], shapes: Callable[..., Any]) -> Any:
    """Register `function` as an operator; `shapes` returns its results as empty tensors."""
    name = schema.split("(")[0]
    _library.define(schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
    _library.impl(name, shapes, "Meta")
    return getattr(torch.ops.nnunet_mamba, name).default


def call_below_autograd(operator: Any, *arguments: Any) -> Any:
    """Call an operator below autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def differentiate_by(operator: Any, function: type[torch.autograd.Function]) -> None:
    """Register the gradients of `function`, which takes the same arguments, as the operator's."""

    def call(*arguments: Any) -> Any:
        wanted = (isinstance(argument, Tensor) and argument.requires_grad for argument in arguments)
        if torch.is_grad_enabled() and any(wanted):
            return function.apply(*arguments)
        return call_below_autograd(operator, *arguments)

    _library.impl(operator._schema.name.split("::")[1], call, "Autograd")


def all_directions(module: ModuleType, one_by_one: Callable[..., Any], function: str) -> Callable[..., Any]:
    """Return the module's own function if it takes all directions at once, as Triton's do; else
    `one_by_one`."""
    return getattr(module, function) if module.TAKES_ALL_DIRECTIONS else partial(one_by_one, module)


def in_dtype_of(grad: Tensor, tensor: Tensor) -> Tensor:
    """Return a gradient in the tensor's dtype, contiguous."""
    return grad if grad.dtype == tensor.dtype and grad.is_contiguous() else grad.to(tensor.dtype).contiguous()


class _NoSecondDerivative(torch.autograd.Function):
    """Identity of the first `count` tensors, gradients that depend on the others, whose backward raises."""

    @staticmethod
    def forward(ctx, count, *tensors):
        return tuple(grad.view_as(grad) for grad in tensors[:count])

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "Second derivatives of the scan, the convolution and linear attention are not implemented."
        )


def differentiable_once(grads: tuple[Tensor, ...], *of: Tensor | None) -> tuple[Tensor, ...]:
    """Return the gradients so that a graph of them (create_graph=True) raises RuntimeError when it is
    used."""
    if not torch.is_grad_enabled():
        return grads
    return _NoSecondDerivative.apply(len(grads), *grads, *(tensor for tensor in of if tensor is not None))


def function_from_states(operator: Any, backward_operator: Any) -> type[torch.autograd.Function]:
    """Return the autograd function of an operator whose backward starts from states that forward keeps.

    Args:
        operator: operator(*tensors, *options, keep, backend) returns (y, states).
        backward_operator: backward_operator(dy, *tensors, states, *options, backend) returns the gradients of
            the first tensors; the last, of indices, has none.
    """
    arguments = operator._schema.arguments
    n_tensors = sum(str(argument.type) in ("Tensor", "Optional[Tensor]") for argument in arguments)

    class FromStates(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *values):
            *options, keep, backend = values[n_tensors:]
            assert keep, "gradients start from the states that forward keeps"
            y, states = call_below_autograd(operator, *values)
            ctx.set_materialize_grads(False)  # the states have no gradient, and need no zeros for it
            ctx.mark_non_differentiable(states)
            ctx.save_for_backward(*values[:n_tensors], states)
            ctx.options = (*options, backend)
            return y, states

        @staticmethod
        def backward(ctx, dy, _):
            if dy is None:
                return (None,) * len(arguments)
            *tensors, states = ctx.saved_tensors
            grads = call_below_autograd(backward_operator, dy, *tensors, states, *ctx.options)
            grads = differentiable_once(grads, dy, *tensors)
            wanted = [None if tensor is None else grad for grad, tensor in zip(grads, tensors, strict=False)]
            return *wanted, *(None,) * (len(arguments) - len(wanted))

    return FromStates
