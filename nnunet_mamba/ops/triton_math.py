"""Functions that the Triton kernels share; tiles (M, WIDTH) have a channel in each of a warp's lanes."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def only_if(condition, mask):
    """Return the mask if a condition on scalars holds (not `&`: the interpreter makes an integer of it)."""
    return tl.where(condition, mask, False)


@triton.jit
def step_rows(indices_ptr, direction, t, length, reverse, COUNT: tl.constexpr, INDEX: tl.constexpr):
    """Return the rows of memory of steps t, t + 1, ...; before the first and after the last step, their rows.

    Bit k of `reverse`: direction k goes from the last step to the first. INDEX is an integer type that can
    count the values of an item.
    """
    rows = ()
    for i in tl.static_range(COUNT):
        visit = tl.minimum(tl.maximum(t + i, 0), length - 1)
        visit = tl.where((reverse >> direction) & 1 != 0, length - 1 - visit, visit)
        if indices_ptr is None:
            rows = rows + (visit.to(INDEX),)
        else:
            rows = rows + (tl.load(indices_ptr + direction * length + visit).to(INDEX),)
    return rows


@triton.jit
def read(at, stride, rows, mask, ACC: tl.constexpr):
    """Load the values of several rows."""
    values = ()
    for i in tl.static_range(len(rows)):
        values = values + (tl.load(at + rows[i] * stride, mask=mask, other=0).to(ACC),)
    return values


@triton.jit
def put(ptr, value, mask, ADD: tl.constexpr):
    """Store a value, or add it to memory if ADD."""
    if ADD:
        value += tl.load(ptr, mask=mask, other=0).to(value.dtype)
    tl.store(ptr, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def softplus(raw, TERMS: tl.constexpr):
    """Return log(1 + exp(raw)), as max(raw, 0) + 2 artanh(e / (2 + e)) with e = exp(-|raw|), and its
    slope."""
    e = tl.exp2(-tl.abs(raw) * LOG2E)
    s = e / (e + 2.0)
    series = tl.zeros_like(raw)
    for i in tl.static_range(TERMS):
        series = series * s * s + 2.0 / (2 * (TERMS - 1 - i) + 1)
    return tl.maximum(raw, 0.0) + s * series, tl.where(raw >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def sigmoid(x):
    """Return the sigmoid of x."""
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def over_states(x):
    """Sum over the states, (N, WIDTH) -> (1, WIDTH)."""
    return tl.sum(x, 0, keep_dims=True)


@triton.jit
def _exchange(x, AWAY: tl.constexpr):
    """Add in each lane the sums of the lane AWAY from it, of its own half of the rows while there is more
    than one: (M, WIDTH) -> (max(M / 2, 1), WIDTH)."""
    lane = tl.arange(0, x.shape[1])[None, :]
    if x.shape[0] == 1:
        kept = x
        sent = x
    else:
        low, high = tl.split(tl.permute(tl.reshape(x, (2, x.shape[0] // 2, x.shape[1])), (1, 2, 0)))
        kept = tl.where((lane & AWAY) != 0, high, low)
        sent = tl.where((lane & AWAY) != 0, low, high)
    return kept + tl.gather(sent, tl.broadcast_to(lane ^ AWAY, sent.shape), 1)


@triton.jit
def over_channels(x):
    """Sum over the lanes, with N exchanges of values where a sum per row would take 5 N.

    Shape: (N, WIDTH) -> (1, WIDTH), whose lane i holds the sum of row i N / WIDTH.
    """
    for i in tl.static_range(5):
        x = _exchange(x, 16 >> i)
    return x
