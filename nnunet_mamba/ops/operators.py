"""The operators as torch.library knows them, so that torch.compile and autograd see one opaque call each.

Inside, sequences are channels last, and k walks over the same b x l tokens share a call: u (k or 1, b, l,
d); delta (k, b, l, d); A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d); z (b, l, d); rows int32 (k, l);
`reverse`, one bool per walk. Of the convolution: x (k or 1, b, l, d); weight (k, d, w); bias (k, d).
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, List, Optional  # noqa: UP035

import torch
from torch import Tensor

from nnunet_mamba.ops import torch_scan, walks
from nnunet_mamba.ops.chunks import chunk_count

# Schemas are inferred from the annotations of registered functions, and torch 2.4 reads only these spellings
# of them.
Maybe = Optional[Tensor]  # noqa: UP045
Flags = List[bool]  # noqa: UP006


def _backend(name: str) -> ModuleType:
    """Imported on first use: `import nnunet_mamba` must not wait for numba or triton."""
    return torch_scan if name == "torch" else import_module(f"nnunet_mamba.ops.{name}_scan")


def _convolution(name: str) -> ModuleType:
    return import_module(f"nnunet_mamba.ops.{name}_conv")


def _all_walks(module: ModuleType, one_by_one: Callable[..., Any], function: str) -> Callable[..., Any]:
    """The module's own function if it takes all walks at once, as Triton's do; else that of `walks`."""
    return getattr(module, function) if "triton" in module.__name__ else partial(one_by_one, module)


@torch.library.custom_op("nnunet_mamba::selective_scan", mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Maybe,
    z: Maybe,
    bias: Maybe,
    rows: Maybe,
    softplus: bool,
    reverse: Flags,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """-> y (b, l, d), the sum over the walks, and the states (k, b, chunks, n, d) that backward starts from
    (empty unless `keep`)."""
    arguments = (u, delta, A, B, C, D, z, bias, rows, softplus, reverse, keep)
    return _all_walks(_backend(backend), walks.forward, "forward")(*arguments)


@scan.register_fake
def _(u, delta, A, B, C, D, z, bias, rows, softplus, reverse, keep, backend):
    k, b, length, d = delta.shape
    work = torch.float64 if u.dtype == torch.float64 else torch.float32
    shape = (k, b, chunk_count(backend, length), A.shape[2], d) if keep else (0,)
    return u.new_empty(u.shape[1:]), u.new_empty(shape, dtype=work)


@torch.library.custom_op("nnunet_mamba::selective_scan_backward", mutates_args=())
def scan_backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Maybe,
    z: Maybe,
    bias: Maybe,
    rows: Maybe,
    states: Tensor,
    softplus: bool,
    reverse: Flags,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> gradients of u, delta, A, B, C, D, z, bias, each in its own dtype (absent ones in u's)."""
    arguments = (dy, u, delta, A, B, C, D, z, bias, rows, states, softplus, reverse)
    grads = _all_walks(_backend(backend), walks.backward, "backward")(*arguments)
    dtypes = [u.dtype if t is None else t.dtype for t in (u, delta, A, B, C, D, z, bias)]
    return tuple(grad.to(dtype).contiguous() for grad, dtype in zip(grads, dtypes, strict=True))  # type: ignore[return-value]


@scan_backward.register_fake
def _(dy, u, delta, A, B, C, D, z, bias, rows, states, softplus, reverse, backend):
    present = [t.new_empty(t.shape) for t in (u, delta, A, B, C)]
    absent = {0: A.shape[:2], 1: (0,), 2: A.shape[:2]}
    d, dz, dbias = (
        u.new_empty(absent[i]) if t is None else t.new_empty(t.shape) for i, t in enumerate((D, z, bias))
    )
    return *present, d, dz, dbias


def _save_scan(ctx, inputs, output) -> None:
    *tensors, softplus, reverse, _, backend = inputs
    ctx.set_materialize_grads(False)  # the states have no gradient, and need no zeros for it
    ctx.save_for_backward(*tensors, output[1])
    ctx.options = (softplus, reverse, backend)


def _scan_gradients(ctx, dy, _):
    if dy is None:
        return (None,) * 13
    *tensors, states = ctx.saved_tensors
    grads = scan_backward(dy, *tensors, states, *ctx.options)
    wanted = [None if tensor is None else grad for grad, tensor in zip(grads, tensors, strict=False)]
    return *wanted, None, None, None, None, None


scan.register_autograd(_scan_gradients, setup_context=_save_scan)


@torch.library.custom_op("nnunet_mamba::causal_conv1d", mutates_args=())
def conv(
    x: Tensor, weight: Tensor, bias: Maybe, rows: Maybe, silu: bool, reverse: Flags, backend: str
) -> Tensor:
    """-> y (k, b, l, d)."""
    convolve = _all_walks(_convolution(backend), walks.convolve, "forward")
    return convolve(x, weight, bias, rows, silu, reverse)


@conv.register_fake
def _(x, weight, bias, rows, silu, reverse, backend):
    return x.new_empty((len(weight), *x.shape[1:]))


@torch.library.custom_op("nnunet_mamba::causal_conv1d_backward", mutates_args=())
def conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Maybe, rows: Maybe, silu: bool, reverse: Flags, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x, weight, bias, each in its own dtype (that of an absent bias in weight's)."""
    convolve = _all_walks(_convolution(backend), walks.convolve_backward, "backward")
    dx, dweight, dbias = convolve(dy, x, weight, bias, rows, silu, reverse)
    return dx.to(x.dtype), dweight.to(weight.dtype).contiguous(), dbias.to(weight.dtype)


@conv_backward.register_fake
def _(dy, x, weight, bias, rows, silu, reverse, backend):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])


def _save_conv(ctx, inputs, output) -> None:
    x, weight, bias, rows, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias, rows)


def _conv_gradients(ctx, dy):
    x, weight, bias, rows = ctx.saved_tensors
    dx, dweight, dbias = conv_backward(dy, x, weight, bias, rows, *ctx.options)
    return dx, dweight, None if bias is None else dbias, None, None, None, None


conv.register_autograd(_conv_gradients, setup_context=_save_conv)
