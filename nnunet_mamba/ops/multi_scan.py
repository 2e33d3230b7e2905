"""Several scan directions on a backend that takes one at a time; outputs and shared gradients are summed.

Shapes: k directions; u (k or 1, b, l, d); delta (k, b, l, d); A (k, d, n); B, C (k, b, g, l, n); D, bias
(k, d); z, y (b, l, d); indices (k, l); `reverse`, one bool per direction. Convolution: x (k or 1, b, l, d),
weight (k, d, w), bias (k, d), y (k, b, l, d). Linear attention: values (k or 1, b, l, h, p), log_decay (k, b,
l, h), keys and queries (k, b, l, g, n), y (b, l, h, p).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops.huge_pages import empty
from nnunet_mamba.ops.precision import accumulation_dtype


def forward(
    module: Any, u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """Return y in u's dtype and, if `keep`, the states that backward starts from (k, b, chunks, n, d)."""
    k, b, length, d = delta.shape
    shape = (k, b, -(-length // module.CHUNK), A.shape[2], d) if keep else (0,)
    states = empty(*shape, dtype=accumulation_dtype(u), device=u.device)
    raised = u if k == 1 else u.to(accumulation_dtype(u))  # sums are rounded once
    y = None
    for direction, (*tensors, is_reversed) in enumerate(
        split_directions(raised, delta, A, B, C, D, z, bias, indices, reverse)
    ):
        y = _add(y, module.forward(*tensors, softplus, is_reversed, states[direction] if keep else None))
    assert y is not None
    return y.to(u.dtype), states


def backward(
    module: Any, dy, u, delta, A, B, C, D, z, bias, indices, states, softplus: bool, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Return gradients of u, delta, A, B, C, D, z (empty without z) and bias, in the accumulation dtype."""
    shared = len(u) < len(delta)
    ddelta, du = (empty(*t.shape, dtype=accumulation_dtype(u), device=u.device) for t in (delta, u))
    dz, own = None, []
    for direction, (*tensors, is_reversed) in enumerate(
        split_directions(u, delta, A, B, C, D, z, bias, indices, reverse)
    ):
        first = not shared or direction == 0
        du_ = (
            du[direction if not shared else 0] if first else empty(*dy.shape, dtype=du.dtype, device=u.device)
        )
        *grads, dz_, dbias = module.backward(
            dy, *tensors, states[direction], softplus, is_reversed, du_, ddelta[direction]
        )
        own.append((*grads, dbias))
        dz = _add(dz, dz_)
        if not first:
            du[0] += du_
    dA, dB, dC, dD, dbias = (_stack(grads) for grads in zip(*own, strict=True))
    assert dz is not None
    return du, ddelta, dA, dB, dC, dD, dz, dbias


def convolve(module: Any, x, weight, bias, indices, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """Return y in x's dtype."""
    y = empty(len(weight), *x.shape[1:], dtype=accumulation_dtype(x), device=x.device)
    for direction, (*tensors, is_reversed) in enumerate(split_filters(x, weight, bias, indices, reverse)):
        module.forward(*tensors, silu, is_reversed, y[direction])
    return y.to(x.dtype)


def convolve_backward(
    module: Any, dy, x, weight, bias, indices, silu: bool, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x, weight and bias, in the accumulation dtype."""
    shared, total, dxs, rest = len(x) < len(weight), None, [], []
    for direction, (*tensors, is_reversed) in enumerate(split_filters(x, weight, bias, indices, reverse)):
        dx, *grads = module.backward(dy[direction], *tensors, silu, is_reversed)
        rest.append(grads)
        if shared:
            total = _add(total, dx)
        else:
            dxs.append(dx)
    dweight, dbias = (_stack(grads) for grads in zip(*rest, strict=True))
    return _stack(dxs) if total is None else total[None], dweight, dbias


def attend(
    module: Any, values, log_decay, keys, queries, indices, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """Return y in values' dtype and, if `keep`, the states that backward starts from (k, b, chunks, n,
    h p)."""
    dtype = accumulation_dtype(values)
    states = empty(*attention_states(module.CHUNK, values, keys, keep), dtype=dtype, device=values.device)
    raised = values if len(reverse) == 1 else values.to(dtype)  # sums are rounded once
    y = None
    for direction, own in enumerate(split_attention(raised, log_decay, keys, queries, indices, reverse)):
        y = _add(y, module.forward(*own, states[direction] if keep else None))
    assert y is not None
    return y.to(values.dtype), states


def attend_backward(
    module: Any, dy, values, log_decay, keys, queries, indices, states, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Return gradients of values, log_decay, keys and queries, in the accumulation dtype."""
    dtype = accumulation_dtype(values)
    grads = [empty(*t.shape, dtype=dtype, device=values.device) for t in (values, log_decay, keys, queries)]
    dvalues, *rest = grads
    each = split_attention(values, log_decay, keys, queries, indices, reverse)
    for direction, (*own, is_reversed) in enumerate(each):
        add = direction >= len(dvalues)
        target = torch.empty_like(dvalues[0]) if add else dvalues[direction]
        module.backward(dy, *own, states[direction], is_reversed, target, *(grad[direction] for grad in rest))
        if add:
            dvalues[0] += target
    return tuple(grads)


def attention_states(chunk: int, values: Tensor, keys: Tensor, keep: bool) -> tuple[int, ...]:
    """Return the shape of the states before each `chunk` steps: (k, b, chunks, n, h p), or (0,) unless
    `keep`."""
    (b, length, h, p), (k, n) = values.shape[1:], (keys.shape[0], keys.shape[4])
    return (k, b, -(-length // chunk), n, h * p) if keep else (0,)


def split_attention(
    values, log_decay, keys, queries, indices, reverse: Sequence[bool]
) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of each direction's linear attention."""
    for direction, is_reversed in enumerate(reverse):
        own = (t[direction] for t in (log_decay, keys, queries))
        indices_ = None if indices is None else indices[direction]
        yield values[direction if len(values) > 1 else 0], *own, indices_, is_reversed


def split_directions(
    u, delta, A, B, C, D, z, bias, indices, reverse: Sequence[bool]
) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of each direction's scan."""
    for direction, is_reversed in enumerate(reverse):
        D_, bias_, indices_ = (None if t is None else t[direction] for t in (D, bias, indices))
        u_ = u[direction if len(u) > 1 else 0]
        own = (t[direction] for t in (delta, A, B, C))
        yield u_, *own, D_, z, bias_, indices_, is_reversed


def split_filters(x, weight, bias, indices, reverse: Sequence[bool]) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of each direction's convolution."""
    for direction, is_reversed in enumerate(reverse):
        bias_, indices_ = (None if t is None else t[direction] for t in (bias, indices))
        yield x[direction if len(x) > 1 else 0], weight[direction], bias_, indices_, is_reversed


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    """Add a term in place; the first one is the total."""
    if total is None:
        return term
    total += term
    return total


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors along a new first axis; a single one becomes a view."""
    return torch.stack(tuple(tensors)) if len(tensors) > 1 else tensors[0][None]
