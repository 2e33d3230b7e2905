"""Operators of the selective scan, linear attention and the causal convolution (see `registration`).

Sequences are channels last, and k directions over the same b x l tokens share a call: u (k or 1, b, l, d);
delta (k, b, l, d); A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d); z (b, l, d); indices int32 (k, l);
`reverse`, one bool per direction. Convolution: x (k or 1, b, l, d); weight (k, d, w); bias (k, d).
Linear attention: values (k or 1, b, l, h, p); log_decay (k, b, l, h); keys, queries (k, b, l, g, n).
"""

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from nnunet_mamba.ops import multi_scan, torch_scan
from nnunet_mamba.ops.constants import LINEAR_CHUNKS, chunk_count
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.registration import (
    all_directions,
    call_below_autograd,
    define_operator,
    differentiable_once,
    differentiate_by,
    function_from_states,
    in_dtype_of,
)


def _backend(name: str) -> ModuleType:
    """Import a backend's scan on first use: `import nnunet_mamba` must not wait for numba or triton."""
    return torch_scan if name == "torch" else import_module(f"nnunet_mamba.ops.{name}_scan")


def _attention(name: str) -> ModuleType:
    """Import a backend's linear attention on first use."""
    return import_module(f"nnunet_mamba.ops.{name}_linear_attention")


def _convolution(name: str) -> ModuleType:
    """Import a backend's convolution on first use."""
    return import_module(f"nnunet_mamba.ops.{name}_conv")


def _scan(u, delta, A, B, C, D, z, bias, indices, softplus, reverse, keep, backend) -> tuple[Tensor, Tensor]:
    """Return y (b, l, d), the sum over directions, and the states (k, b, chunks, n, d) that backward starts
    from (empty unless `keep`)."""
    arguments = (u, delta, A, B, C, D, z, bias, indices, softplus, reverse, keep)
    return all_directions(_backend(backend), multi_scan.forward, "forward")(*arguments)


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
    grads = all_directions(_backend(backend), multi_scan.backward, "backward")(*arguments)
    own = (u if t is None else t for t in (u, delta, A, B, C, D, z, bias))
    return tuple(in_dtype_of(grad, tensor) for grad, tensor in zip(grads, own, strict=True))


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
scan = define_operator(
    f"selective_scan({_SCANNED}, bool softplus, bool[] reverse, bool keep, str backend) -> (Tensor, Tensor)",
    _scan,
    _scan_shapes,
)
scan_backward = define_operator(
    f"selective_scan_backward(Tensor dy, {_SCANNED}, Tensor states, bool softplus, bool[] reverse, "
    f"str backend) -> ({', '.join(['Tensor'] * 8)})",
    _scan_backward,
    _scan_backward_shapes,
)


ScanFunction = function_from_states(scan, scan_backward)
differentiate_by(scan, ScanFunction)


def _linear_attention(
    values, log_decay, keys, queries, indices, reverse, keep, backend
) -> tuple[Tensor, Tensor]:
    """Return y (b, l, h, p), the sum over directions, and the states (k, b, chunks, n, h p) that backward
    starts from (empty unless `keep`)."""
    attend = all_directions(_attention(backend), multi_scan.attend, "forward")
    return attend(values, log_decay, keys, queries, indices, reverse, keep)


def _linear_attention_shapes(values, log_decay, keys, queries, indices, reverse, keep, backend):
    """Return empty results of `_linear_attention`."""
    shape = multi_scan.attention_states(LINEAR_CHUNKS[backend], values, keys, keep)
    return values.new_empty(values.shape[1:]), values.new_empty(shape, dtype=accumulation_dtype(values))


def _linear_attention_backward(
    dy, values, log_decay, keys, queries, indices, states, reverse, backend
) -> tuple[Tensor, ...]:
    """Return gradients of values, log_decay, keys and queries, each in its own dtype."""
    attend = all_directions(_attention(backend), multi_scan.attend_backward, "backward")
    grads = attend(dy, values, log_decay, keys, queries, indices, states, reverse)
    own = (values, log_decay, keys, queries)
    return tuple(in_dtype_of(grad, tensor) for grad, tensor in zip(grads, own, strict=True))


def _linear_attention_backward_shapes(
    dy, values, log_decay, keys, queries, indices, states, reverse, backend
):
    """Return empty results of `_linear_attention_backward`."""
    return tuple(t.new_empty(t.shape) for t in (values, log_decay, keys, queries))


_ATTENDED = "Tensor values, Tensor log_decay, Tensor keys, Tensor queries, Tensor? indices"
linear_attention = define_operator(
    f"linear_attention({_ATTENDED}, bool[] reverse, bool keep, str backend) -> (Tensor, Tensor)",
    _linear_attention,
    _linear_attention_shapes,
)
linear_attention_backward = define_operator(
    f"linear_attention_backward(Tensor dy, {_ATTENDED}, Tensor states, bool[] reverse, str backend) "
    f"-> ({', '.join(['Tensor'] * 4)})",
    _linear_attention_backward,
    _linear_attention_backward_shapes,
)


LinearAttentionFunction = function_from_states(linear_attention, linear_attention_backward)
differentiate_by(linear_attention, LinearAttentionFunction)


def _conv(x, weight, bias, indices, silu, reverse, backend) -> Tensor:
    """Return y (k, b, l, d)."""
    convolve = all_directions(_convolution(backend), multi_scan.convolve, "forward")
    return convolve(x, weight, bias, indices, silu, reverse)


def _conv_shapes(x, weight, bias, indices, silu, reverse, backend):
    """Return an empty result of `_conv`."""
    return x.new_empty((len(weight), *x.shape[1:]))


def _conv_backward(dy, x, weight, bias, indices, silu, reverse, backend) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x, weight, bias, each in its own dtype (that of an absent bias in weight's)."""
    convolve = all_directions(_convolution(backend), multi_scan.convolve_backward, "backward")
    dx, dweight, dbias = convolve(dy, x, weight, bias, indices, silu, reverse)
    return in_dtype_of(dx, x), in_dtype_of(dweight, weight), in_dtype_of(dbias, weight)


def _conv_backward_shapes(dy, x, weight, bias, indices, silu, reverse, backend):
    """Return empty results of `_conv_backward`."""
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])


_CONVOLVED = "Tensor x, Tensor weight, Tensor? bias, Tensor? indices, bool silu, bool[] reverse, str backend"
conv = define_operator(f"causal_conv1d({_CONVOLVED}) -> Tensor", _conv, _conv_shapes)
conv_backward = define_operator(
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
        return call_below_autograd(conv, *arguments)

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, indices = ctx.saved_tensors
        grads = call_below_autograd(conv_backward, dy, x, weight, bias, indices, *ctx.options)
        dx, dweight, dbias = differentiable_once(grads, dy, x, weight, bias)
        return dx, dweight, None if bias is None else dbias, None, None, None, None


differentiate_by(conv, ConvolutionFunction)
