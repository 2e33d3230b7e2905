"""Several walks by a backend that takes one at a time: sums of outputs, and of what the walks share.

Shapes: k walks; u (k or 1, b, l, d); delta (k, b, l, d); A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d);
z, y (b, l, d); rows (k, l); `reverse`, one bool per walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class OneWalk(Protocol):
    """A backend module of the scan."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, ...]]
    chunk_count: Callable[[int], int]


def forward(
    module: OneWalk, u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """-> y in u's dtype, and the states that backward starts from (k, b, chunks, n, d), if `keep`."""
    u_ = u if len(reverse) == 1 else _summable(u)
    walks = _each(u_, delta, A, B, C, D, z, bias, rows, reverse)
    results = [module.forward(*tensors, softplus, backwards, keep) for *tensors, backwards in walks]
    y = results[0][0]
    for other, _ in results[1:]:
        y += other
    states = [states for _, states in results]
    return y.to(u.dtype), _stack(states) if keep else states[0]


def backward(
    module: OneWalk, dy, u, delta, A, B, C, D, z, bias, rows, states, softplus: bool, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """-> gradients of u, delta, A, B, C, D, z (empty without z) and bias, in the dtype of the sums."""
    walks = zip(_each(u, delta, A, B, C, D, z, bias, rows, reverse), states, strict=True)
    results = [
        module.backward(dy, *tensors, kept, softplus, backwards) for (*tensors, backwards), kept in walks
    ]
    du, ddelta, dA, dB, dC, dD, dz, dbias = zip(*results, strict=True)
    own = [_stack(grads) for grads in (ddelta, dA, dB, dC, dD, dbias)]
    du_ = _sum(du)[None] if len(u) == 1 else _stack(du)
    return du_, *own[:5], _sum(dz), own[5]


def convolve(module: Any, x, weight, bias, rows, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """The causal convolution of each walk: x (k or 1, b, l, d), weight (k, d, w), bias (k, d) -> (k, b, l,
    d)."""
    walks = _each_filter(x, weight, bias, rows, reverse)
    return _stack([module.forward(*tensors, silu, backwards) for *tensors, backwards in walks])


def convolve_backward(
    module: Any, dy, x, weight, bias, rows, silu: bool, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x, weight and bias, in the dtype of the sums."""
    walks = zip(dy, _each_filter(x, weight, bias, rows, reverse), strict=True)
    results = [module.backward(dy_, *tensors, silu, backwards) for dy_, (*tensors, backwards) in walks]
    dx, dweight, dbias = zip(*results, strict=True)
    return _sum(dx)[None] if len(x) == 1 else _stack(dx), _stack(dweight), _stack(dbias)


def _each_filter(x, weight, bias, rows, reverse: Sequence[bool]) -> Iterator[tuple[Any, ...]]:
    for walk, backwards in enumerate(reverse):
        bias_, rows_ = (None if t is None else t[walk] for t in (bias, rows))
        yield x[walk if len(x) > 1 else 0], weight[walk], bias_, rows_, backwards


def _each(u, delta, A, B, C, D, z, bias, rows, reverse: Sequence[bool]) -> Iterator[tuple[Any, ...]]:
    """The arguments of each walk."""
    for walk, backwards in enumerate(reverse):
        D_, bias_, rows_ = (None if t is None else t[walk] for t in (D, bias, rows))
        u_ = u[walk if len(u) > 1 else 0]
        yield u_, delta[walk], A[walk], B[walk], C[walk], D_, z, bias_, rows_, backwards


def _summable(u: Tensor) -> Tensor:
    """Half precision raised to float32, so that sums of outputs are not rounded one by one."""
    return u.float() if u.dtype in (torch.float16, torch.bfloat16) else u


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total += tensor
    return total


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(tensors)) if len(tensors) > 1 else tensors[0][None]
