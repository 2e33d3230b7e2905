"""Operators registered with torch.library, so that torch.compile and autograd see one opaque call each.

Sequences are channels last, and k directions over the same b x l tokens share a call: u (k or 1, b, l, d);
delta (k, b, l, d); A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d); z (b, l, d); indices int32 (k, l);
`reverse`, one bool per direction. Convolution: x (k or 1, b, l, d); weight (k, d, w); bias (k, d).

They use `torch.library.Library` because `torch.library.custom_op` with its autograd takes three to four times
as long, some 60 microseconds more in each call.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops import multi_scan, torch_scan
from nnunet_mamba.ops.constants import chunk_count
from nnunet_mamba.ops.precision import accumulation_dtype

_library = torch.library.Library("nnunet_mamba", "DEF")


def _operator(schema: str, function: Callable[..., Any], shapes: Callable[..., Any]) -> Any:
    """Register `function` as an operator; `shapes` returns its results as empty tensors."""
    name = schema.split("(")[0]
    _library.define(schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
    _library.impl(name, shapes, "Meta")
    return getattr(torch.ops.nnunet_mamba, name).default


def _below_autograd(operator: Any, *arguments: Any) -> Any:
    """Call an operator below autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def _differentiate(operator: Any, function: type[torch.autograd.Function]) -> None:
    """Register the gradients of `function`, which takes the same arguments, as the operator's."""

    def call(*arguments: Any) -> Any:
        wanted = (isinstance(argument, Tensor) and argument.requires_grad for argument in arguments)
        if torch.is_grad_enabled() and any(wanted):
            return function.apply(*arguments)
        return _below_autograd(operator, *arguments)

    _library.impl(operator._schema.name.split("::")[1], call, "Autograd")


def _backend(name: str) -> ModuleType:
    """Import a backend's scan on first use: `import nnunet_mamba` must not wait for numba or triton."""
    return torch_scan if name == "torch" else import_module(f"nnunet_mamba.ops.{name}_scan")


def _convolution(name: str) -> ModuleType:
    """Import a backend's convolution on first use."""
    return import_module(f"nnunet_mamba.ops.{name}_conv")


def _all_directions(module: ModuleType, one_by_one: Callable[..., Any], function: str) -> Callable[..., Any]:
    """Return the module's own function if it takes all directions at once, as Triton's do; else
    `one_by_one`."""
    return getattr(module, function) if module.TAKES_ALL_DIRECTIONS else partial(one_by_one, module)


def _as(grad: Tensor, tensor: Tensor) -> Tensor:
    """Return a gradient in the tensor's dtype, contiguous."""
    return grad if grad.dtype == tensor.dtype and grad.is_contiguous() else grad.to(tensor.dtype).contiguous()


def _scan(u, delta, A, B, C, D, z, bias, indices, softplus, reverse, keep, backend) -> tuple[Tensor, Tensor]:
    """Return y (b, l, d), the sum over directions, and the states (k, b, chunks, n, d) that backward starts
    from (empty unless `keep`)."""
    arguments = (u, delta, A, B, C, D, z, bias, indices, softplus, reverse, keep)
    return _all_directions(_backend(backend), multi_scan.forward, "forward")(*arguments)


def _scan_shapes(u, delta, A, B, C, D, z, bias, indices, softplus, reverse, keep, backend):
    """Return empty results of `_scan`."""
    k, b, length, d = delta.shape
    shape = (k, b, chunk_count(backend, length), A.shape[2], d) if keep else (0,)
    return u.new_empty(u.shape[1:]), u.new_empty(shape, dtype=accumulation_dtype(u))


def _scan_backward(
    dy, u, delta, A, B, C, D, z, bias, indices, states, softplus, reverse, backend
) -> tuple[Tensor, ...]:
    """Return gradients of u, delta, A, B, C, D, z, bias, each in its own dtype (absent ones in u's)."""
    arguments = (dy, u, delta, A, B, C, D, z, bias, indices, states, softplus, reverse)
    grads = _all_directions(_backend(backend), multi_scan.backward, "backward")(*arguments)
    own = (u if t is None else t for t in (u, delta, A, B, C, D, z, bias))
    return tuple(_as(grad, tensor) for grad, tensor in zip(grads, own, strict=True))


def _scan_backward_shapes(dy, u, delta, A, B, C, D, z, bias, indices, states, softplus, reverse, backend):
    """Return empty results of `_scan_backward`."""
    present = [t.new_empty(t.shape) for t in (u, delta, A, B, C)]
    absent = {0: A.shape[:2], 1: (0,), 2: A.shape[:2]}
    d, dz, dbias = (
        u.new_empty(absent[i]) if t is None else t.new_empty(t.shape) for i, t in enumerate((D, z, bias))
    )
    return *present, d, dz, dbias


_SCANNED = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? bias, "
    "Tensor? indices"
)
scan = _operator(
    f"selective_scan({_SCANNED}, bool softplus, bool[] reverse, bool keep, str backend) -> (Tensor, Tensor)",
    _scan,
    _scan_shapes,
)
scan_backward = _operator(
    f"selective_scan_backward(Tensor dy, {_SCANNED}, Tensor states, bool softplus, bool[] reverse, "
    f"str backend) -> ({', '.join(['Tensor'] * 8)})",
    _scan_backward,
    _scan_backward_shapes,
)


class _NoSecondDerivative(torch.autograd.Function):
    """Identity of the first `count` tensors, gradients that depend on the others, whose backward raises."""

    @staticmethod
    def forward(ctx, count, *tensors):
        return tuple(grad.view_as(grad) for grad in tensors[:count])

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("Second derivatives of the scan and the convolution are not implemented.")


def _once(grads: tuple[Tensor, ...], *of: Tensor | None) -> tuple[Tensor, ...]:
    """Return the gradients so that a graph of them (create_graph=True) raises RuntimeError when it is
    used."""
    if not torch.is_grad_enabled():
        return grads
    return _NoSecondDerivative.apply(len(grads), *grads, *(tensor for tensor in of if tensor is not None))


class ScanFunction(torch.autograd.Function):
    """Autograd function of `scan`."""

    @staticmethod
    def forward(ctx, *arguments):
        *tensors, softplus, reverse, keep, backend = arguments
        assert keep, "gradients start from the states that forward keeps"
        y, states = _below_autograd(scan, *arguments)
        ctx.set_materialize_grads(False)  # the states have no gradient, and need no zeros for it
        ctx.mark_non_differentiable(states)
        ctx.save_for_backward(*tensors, states)
        ctx.options = (softplus, reverse, backend)
        return y, states

    @staticmethod
    def backward(ctx, dy, _):
        if dy is None:
            return (None,) * 13
        *tensors, states = ctx.saved_tensors
        grads = _below_autograd(scan_backward, dy, *tensors, states, *ctx.options)
        grads = _once(grads, dy, *tensors)
        wanted = [None if tensor is None else grad for grad, tensor in zip(grads, tensors, strict=False)]
        return *wanted, None, None, None, None, None


_differentiate(scan, ScanFunction)


def _conv(x, weight, bias, indices, silu, reverse, backend) -> Tensor:
    """Return y (k, b, l, d)."""
    convolve = _all_directions(_convolution(backend), multi_scan.convolve, "forward")
    return convolve(x, weight, bias, indices, silu, reverse)


def _conv_shapes(x, weight, bias, indices, silu, reverse, backend):
    """Return an empty result of `_conv`."""
    return x.new_empty((len(weight), *x.shape[1:]))


def _conv_backward(dy, x, weight, bias, indices, silu, reverse, backend) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x, weight, bias, each in its own dtype (that of an absent bias in weight's)."""
    convolve = _all_directions(_convolution(backend), multi_scan.convolve_backward, "backward")
    dx, dweight, dbias = convolve(dy, x, weight, bias, indices, silu, reverse)
    return _as(dx, x), _as(dweight, weight), _as(dbias, weight)


def _conv_backward_shapes(dy, x, weight, bias, indices, silu, reverse, backend):
    """Return empty results of `_conv_backward`."""
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])


_CONVOLVED = "Tensor x, Tensor weight, Tensor? bias, Tensor? indices, bool silu, bool[] reverse, str backend"
conv = _operator(f"causal_conv1d({_CONVOLVED}) -> Tensor", _conv, _conv_shapes)
conv_backward = _operator(
    f"causal_conv1d_backward(Tensor dy, {_CONVOLVED}) -> (Tensor, Tensor, Tensor)",
    _conv_backward,
    _conv_backward_shapes,
)


class ConvolutionFunction(torch.autograd.Function):
    """Autograd function of `conv`."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.save_for_backward(*arguments[:4])
        ctx.options = arguments[4:]
        return _below_autograd(conv, *arguments)

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, indices = ctx.saved_tensors
        grads = _below_autograd(conv_backward, dy, x, weight, bias, indices, *ctx.options)
        dx, dweight, dbias = _once(grads, dy, x, weight, bias)
        return dx, dweight, None if bias is None else dbias, None, None, None, None


_differentiate(conv, ConvolutionFunction)
