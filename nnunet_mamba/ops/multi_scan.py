"""Several walks by a backend that takes one at a time: sums of outputs, and of what the walks share.

Shapes: k walks; u (k or 1, b, l, d); delta (k, b, l, d); A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d);
z, y (b, l, d); rows (k, l); `reverse`, one bool per walk. Of the convolution: x (k or 1, b, l, d), weight
(k, d, w), bias (k, d), y (k, b, l, d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops.huge_pages import empty


def forward(
    module: Any, u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """-> y in u's dtype, and the states that backward starts from (k, b, chunks, n, d), if `keep`."""
    k, b, length, d = delta.shape
    shape = (k, b, -(-length // module.CHUNK), A.shape[2], d) if keep else (0,)
    states = empty(*shape, dtype=dtype_of_sums(u), device=u.device)
    raised = u if k == 1 else u.to(dtype_of_sums(u))  # sums are rounded once
    y = None
    for walk, (*tensors, backwards) in enumerate(each(raised, delta, A, B, C, D, z, bias, rows, reverse)):
        y = _add(y, module.forward(*tensors, softplus, backwards, states[walk] if keep else None))
    assert y is not None
    return y.to(u.dtype), states


def backward(
    module: Any, dy, u, delta, A, B, C, D, z, bias, rows, states, softplus: bool, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """-> gradients of u, delta, A, B, C, D, z (empty without z) and bias, in the dtype of the sums."""
    shared = len(u) < len(delta)
    ddelta, du = (empty(*t.shape, dtype=dtype_of_sums(u), device=u.device) for t in (delta, u))
    dz, own = None, []
    for walk, (*tensors, backwards) in enumerate(each(u, delta, A, B, C, D, z, bias, rows, reverse)):
        first = not shared or walk == 0
        du_ = du[walk if not shared else 0] if first else empty(*dy.shape, dtype=du.dtype, device=u.device)
        *grads, dz_, dbias = module.backward(
            dy, *tensors, states[walk], softplus, backwards, du_, ddelta[walk]
        )
        own.append((*grads, dbias))
        dz = _add(dz, dz_)
        if not first:
            du[0] += du_
    dA, dB, dC, dD, dbias = (_stack(grads) for grads in zip(*own, strict=True))
    assert dz is not None
    return du, ddelta, dA, dB, dC, dD, dz, dbias


def convolve(module: Any, x, weight, bias, rows, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """-> y in x's dtype."""
    y = empty(len(weight), *x.shape[1:], dtype=dtype_of_sums(x), device=x.device)
    for walk, (*tensors, backwards) in enumerate(each_filter(x, weight, bias, rows, reverse)):
        module.forward(*tensors, silu, backwards, y[walk])
    return y.to(x.dtype)


def convolve_backward(
    module: Any, dy, x, weight, bias, rows, silu: bool, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x, weight and bias, in the dtype of the sums."""
    shared, total, dxs, rest = len(x) < len(weight), None, [], []
    for walk, (*tensors, backwards) in enumerate(each_filter(x, weight, bias, rows, reverse)):
        dx, *grads = module.backward(dy[walk], *tensors, silu, backwards)
        rest.append(grads)
        if shared:
            total = _add(total, dx)
        else:
            dxs.append(dx)
    dweight, dbias = (_stack(grads) for grads in zip(*rest, strict=True))
    return _stack(dxs) if total is None else total[None], dweight, dbias


def each(u, delta, A, B, C, D, z, bias, rows, reverse: Sequence[bool]) -> Iterator[tuple[Any, ...]]:
    """The arguments of each walk."""
    for walk, backwards in enumerate(reverse):
        D_, bias_, rows_ = (None if t is None else t[walk] for t in (D, bias, rows))
        u_ = u[walk if len(u) > 1 else 0]
        yield u_, delta[walk], A[walk], B[walk], C[walk], D_, z, bias_, rows_, backwards


def each_filter(x, weight, bias, rows, reverse: Sequence[bool]) -> Iterator[tuple[Any, ...]]:
    for walk, backwards in enumerate(reverse):
        bias_, rows_ = (None if t is None else t[walk] for t in (bias, rows))
        yield x[walk if len(x) > 1 else 0], weight[walk], bias_, rows_, backwards


def dtype_of_sums(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    """In place, but for the first."""
    if total is None:
        return term
    total += term
    return total


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(tensors)) if len(tensors) > 1 else tensors[0][None]
