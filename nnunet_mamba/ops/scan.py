"""The door to the selective scan and to the causal convolution: shapes checked, backend chosen, operators
registered.

The operators are registered with torch.library, so torch.compile and autograd see one opaque call. Inside,
sequences are channels last: u, delta, z (b, l, d); A (d, n); B, C (b, g, l, n).
"""

from types import ModuleType
from typing import Optional

import torch
from torch import Tensor

from nnunet_mamba.ops import onnx_scan, reference, torch_scan
from nnunet_mamba.ops.backends import choose_backend

# Schemas are inferred from the annotations of registered functions, and torch 2.4 reads only this spelling of
# them.
Maybe = Optional[Tensor]  # noqa: UP045


def _numba(name: str) -> ModuleType:
    """Imported on first use: `import nnunet_mamba` must not wait for numba."""
    from importlib import import_module

    return import_module(f"nnunet_mamba.ops.{name}")


def _scan_module(backend: str) -> ModuleType:
    return torch_scan if backend == "torch" else _numba("numba_scan")


@torch.library.custom_op("nnunet_mamba::selective_scan", mutates_args=())
def _scan(
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
    reverse: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """-> y, and the states that backward starts from (empty unless `keep`)."""
    return _scan_module(backend).forward(u, delta, A, B, C, D, z, bias, rows, softplus, reverse, keep)


@_scan.register_fake
def _(u, delta, A, B, C, D, z, bias, rows, softplus, reverse, keep, backend):
    work = torch.float64 if u.dtype == torch.float64 else torch.float32
    n_chunks = _scan_module(backend).chunk_count(u.shape[1])
    shape = (u.shape[0], n_chunks, A.shape[1], u.shape[2]) if keep else (0,)
    return u.new_empty(u.shape), u.new_empty(shape, dtype=work)


@torch.library.custom_op("nnunet_mamba::selective_scan_backward", mutates_args=())
def _scan_backward(
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
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> gradients of u, delta, A, B, C, D, z, bias, each in its own dtype (absent ones in u's)."""
    grads = _scan_module(backend).backward(dy, u, delta, A, B, C, D, z, bias, rows, states, softplus, reverse)
    dtypes = [u.dtype if t is None else t.dtype for t in (u, delta, A, B, C, D, z, bias)]
    return tuple(grad.to(dtype).contiguous() for grad, dtype in zip(grads, dtypes, strict=True))  # type: ignore[return-value]


@_scan_backward.register_fake
def _(dy, u, delta, A, B, C, D, z, bias, rows, states, softplus, reverse, backend):
    present = [t.new_empty(t.shape) for t in (u, delta, A, B, C)]
    d, dz, dbias = (
        u.new_empty(shape) if t is None else t.new_empty(t.shape) for t, shape in _absent(u, D, z, bias)
    )
    return *present, d, dz, dbias


def _absent(u: Tensor, D: Maybe, z: Maybe, bias: Maybe) -> list[tuple[Maybe, tuple[int, ...]]]:
    """Optional arguments with the shape of their gradient where they are absent."""
    return [(D, (u.shape[2],)), (z, (0,)), (bias, (u.shape[2],))]


def _save_scan(ctx, inputs, output) -> None:
    *tensors, softplus, reverse, _, backend = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.options = (softplus, reverse, backend)


def _scan_gradients(ctx, dy, _):
    *tensors, states = ctx.saved_tensors
    grads = _scan_backward(dy, *tensors, states, *ctx.options)
    wanted = [None if tensor is None else grad for grad, tensor in zip(grads, tensors, strict=False)]
    return *wanted, None, None, None, None, None


_scan.register_autograd(_scan_gradients, setup_context=_save_scan)


@torch.library.custom_op("nnunet_mamba::causal_conv1d", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Maybe, rows: Maybe, silu: bool, reverse: bool) -> Tensor:
    return _numba("numba_conv").forward(x, weight, bias, rows, silu, reverse)


@_conv.register_fake
def _(x, weight, bias, rows, silu, reverse):
    return x.new_empty(x.shape)


@torch.library.custom_op("nnunet_mamba::causal_conv1d_backward", mutates_args=())
def _conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Maybe, rows: Maybe, silu: bool, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = _numba("numba_conv").backward(dy, x, weight, bias, rows, silu, reverse)
    return dx.to(x.dtype), dweight.to(weight.dtype).contiguous(), dbias.to(weight.dtype)


@_conv_backward.register_fake
def _(dy, x, weight, bias, rows, silu, reverse):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _save_conv(ctx, inputs, output) -> None:
    x, weight, bias, rows, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias, rows)


def _conv_gradients(ctx, dy):
    x, weight, bias, rows = ctx.saved_tensors
    dx, dweight, dbias = _conv_backward(dy, x, weight, bias, rows, *ctx.options)
    return dx, dweight, None if bias is None else dbias, None, None, None


_conv.register_autograd(_conv_gradients, setup_context=_save_conv)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    rows: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Mamba's selective scan (S6) over a sequence, or over any walk through its tokens.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,    y_t = (C_t h_t + D u_t) silu(z_t)

    with delta_t = softplus(delta_t + delta_bias) where asked for. Arguments and shapes are mamba_ssm's:
    u, delta, z (b, d, l); A (d, n) real; B, C (b, n, l) or, by groups of d / g channels, (b, g, n, l);
    D, delta_bias (d,) -> y (b, d, l) in u's dtype. Any strides; fastest, and without a copy, if d is
    contiguous.

    Args:
        reverse: walk from the last token to the first.
        rows: int32 (l,), the token that step t visits, each token once; y stays where its token is.
        backend: "reference", "numba" or "torch"; by default NNUNET_MAMBA_BACKEND or the best for the device.

    Computed in float32 (float64 if u is), under autocast or not. NaN in gives NaN out, and nothing else does.
    Raises ValueError if shapes disagree or the backend cannot run.
    """
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    _check_scan(u, delta, A, B, C, D, z, delta_bias)
    _check_rows(rows, u.shape[-1])
    name = choose_backend(backend, u.device.type)
    u, delta, B, C = (t.transpose(-1, -2) for t in (u, delta, B, C))
    z = None if z is None else z.transpose(-1, -2)
    arguments = (u, delta, A, B, C, D, z, delta_bias, rows, delta_softplus, reverse)
    if name == "reference":
        return reference.selective_scan_reference(*arguments).transpose(-1, -2)
    if torch.onnx.is_in_onnx_export():
        return onnx_scan.selective_scan(*arguments).transpose(-1, -2)
    y, _ = _scan(*arguments, _needs_gradient(u, delta, A, B, C, D, z, delta_bias), name)
    return y.transpose(-1, -2)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reverse: bool = False,
    rows: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Depthwise convolution that looks back along a walk: y_t = act(bias + sum_k weight_k x_{t-w+1+k}).

    x (b, d, l), weight (d, w), bias (d,) -> y (b, d, l) in x's dtype; `activation` is None or "silu". The
    walk, the backend, precision and errors are as in `selective_scan`; the argument order is the
    causal_conv1d package's.
    """
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"Expected x (b, d, l) and weight (d, w), got {tuple(x.shape)} and {tuple(weight.shape)}."
        )
    if activation not in (None, "silu"):
        raise ValueError(f"Unknown activation {activation!r}; choose None or 'silu'.")
    _check_rows(rows, x.shape[-1])
    name = choose_backend(backend, x.device.type)
    arguments = (x.transpose(-1, -2), weight, bias, rows, activation == "silu", reverse)
    if name == "numba" and not torch.onnx.is_in_onnx_export():
        y = _conv(*arguments)
    else:
        y = reference.causal_conv1d_reference(*arguments)
    return y.transpose(-1, -2)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _check_rows(rows: Tensor | None, length: int) -> None:
    if rows is not None and (rows.shape != (length,) or rows.dtype != torch.int32):
        raise ValueError(f"rows must be int32 ({length},), got {rows.dtype} {tuple(rows.shape)}.")


def _check_scan(u, delta, A, B, C, D, z, bias) -> None:
    if u.dim() != 3 or A.dim() != 2 or B.dim() != 4:
        raise ValueError(
            f"Expected u (b, d, l), A (d, n) and B (b, n, l) or (b, g, n, l); "
            f"got {tuple(u.shape)}, {tuple(A.shape)} and {tuple(B.shape)}."
        )
    if A.is_complex():
        raise ValueError("A is complex; only real A is supported, as in all of these papers' networks.")
    (b, d, length), n, g = u.shape, A.shape[1], B.shape[1]
    if d % g:
        raise ValueError(f"{d} channels cannot be split into the {g} groups of B.")
    expected = {
        "delta": (delta, (b, d, length)),
        "A": (A, (d, n)),
        "B": (B, (b, g, n, length)),
        "C": (C, (b, g, n, length)),
        "D": (D, (d,)),
        "z": (z, (b, d, length)),
        "delta_bias": (bias, (d,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} to go with u {(b, d, length)}, got {tuple(tensor.shape)}."
            )
