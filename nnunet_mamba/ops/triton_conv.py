"""The causal depthwise convolution on NVIDIA GPUs, with SiLU, along walks: each read and written in place.

A program computes a tile of STEPS steps by WIDTH channels of one walk; what neighbouring taps read again
comes from the cache. Backward computes the sums before SiLU again instead of keeping them.

Shapes: x (k or 1, b, l, d); weight (k, d, w); bias (k, d); rows (k, l); y (k, b, l, d); `reverse`, a bool per
walk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops.triton_scan import sequence

TILE = 2048  # values of a program, of 4 warps
WIDEST = 128  # channels


@triton.jit
def _coordinates(length, channels, tiles, first, STEPS: tl.constexpr, WIDTH: tl.constexpr):
    """Walk, batch item, tile; steps (STEPS, 1); channels and their mask (1, WIDTH)."""
    walk = (first + tl.program_id(2)).to(tl.int64)
    item, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    t = tile * STEPS + tl.arange(0, STEPS)[:, None]
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    return walk, item, tile, t, channel, channel < channels


@triton.jit
def _rows(rows_ptr, walk, t, inside, length, reverse):
    """The rows of memory that steps t visit, where they are inside."""
    t = tl.where((reverse >> walk) & 1 != 0, length - 1 - t, t)
    if rows_ptr is None:
        row = t.to(tl.int64)
    else:
        row = tl.load(rows_ptr + walk * length + t, mask=inside, other=0).to(tl.int64)
    return row


@triton.jit
def _tap(x, rows_ptr, walk, item, t, channel, known, length, reverse, ACC: tl.constexpr):
    """x at steps t; zeros before the first and after the last step."""
    inside = (t >= 0) & (t < length)
    row = _rows(rows_ptr, walk, t, inside, length, reverse)
    at = x[0] + walk * x[1] + item * x[2] + row * x[3] + channel
    return tl.load(at, mask=inside & known, other=0).to(ACC)


@triton.jit
def _weight(weight_ptr, walk, tap, channels, channel, known, TAPS: tl.constexpr):
    """Of one tap (1, WIDTH); weights are (k, w, d)."""
    return tl.load(weight_ptr + (walk * TAPS + tap) * channels + channel, mask=known, other=0)


@triton.jit
def _filtered(
    x, weight_ptr, bias_ptr, rows_ptr, walk, item, t, channel, known, length, channels, reverse,
    TAPS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """bias + sum over the taps, at steps t."""
    total = tl.zeros(tl.broadcast(t, channel)[0].shape, ACC)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + walk * channels + channel, mask=known, other=0)
    for tap in tl.static_range(TAPS):
        value = _tap(x, rows_ptr, walk, item, t - (TAPS - 1 - tap), channel, known, length, reverse, ACC)
        total += value * _weight(weight_ptr, walk, tap, channels, channel, known, TAPS)
    return total


@triton.jit(do_not_specialize=["first"])
def conv_forward(
    x, weight_ptr, bias_ptr, rows_ptr, y, length, channels, tiles, reverse, first,
    SILU: tl.constexpr, TAPS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    walk, item, _, t, channel, known = _coordinates(length, channels, tiles, first, STEPS, WIDTH)
    value = _filtered(
        x, weight_ptr, bias_ptr, rows_ptr, walk, item, t, channel, known, length, channels, reverse, TAPS, ACC
    )  # fmt: skip
    if SILU:
        value = value / (1.0 + tl.exp(-value))
    row = _rows(rows_ptr, walk, t, t < length, length, reverse)
    at = y[0] + walk * y[1] + item * y[2] + row * y[3] + channel
    tl.store(at, value.to(y[0].dtype.element_ty), mask=(t < length) & known)


@triton.jit(do_not_specialize=["first"])
def conv_backward(
    dy, x, weight_ptr, bias_ptr, rows_ptr, dx, dweight_ptr, dbias_ptr, length, channels, tiles, reverse,
    first,
    ADD: tl.constexpr, SILU: tl.constexpr, TAPS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """dx, added to what is there where ADD; dweight (k, programs, w, d), dbias (k, programs, d) of each
    tile."""
    walk, item, _, t, channel, known = _coordinates(length, channels, tiles, first, STEPS, WIDTH)
    through = tl.zeros([STEPS, WIDTH], ACC)
    place = walk * tl.num_programs(0) + tl.program_id(0)
    for later in tl.static_range(TAPS):
        grad = _tap(dy, rows_ptr, walk, item, t + later, channel, known, length, reverse, ACC)
        if SILU:
            before = _filtered(
                x, weight_ptr, bias_ptr, rows_ptr, walk, item, t + later, channel, known, length, channels,
                reverse, TAPS, ACC,
            )  # fmt: skip
            s = 1.0 / (1.0 + tl.exp(-before))
            grad *= s * (1.0 + before * (1.0 - s))
        through += grad * _weight(weight_ptr, walk, TAPS - 1 - later, channels, channel, known, TAPS)
        if later == 0:
            tl.store(dbias_ptr + place * channels + channel, tl.sum(grad, 0, keep_dims=True), mask=known)
            for tap in tl.static_range(TAPS):
                back = TAPS - 1 - tap
                value = _tap(x, rows_ptr, walk, item, t - back, channel, known, length, reverse, ACC)
                at = dweight_ptr + (place * TAPS + tap) * channels + channel
                tl.store(at, tl.sum(grad * value, 0, keep_dims=True), mask=known)
    inside = (t < length) & known
    row = _rows(rows_ptr, walk, t, t < length, length, reverse)
    at = dx[0] + walk * dx[1] + item * dx[2] + row * dx[3] + channel
    if ADD:
        through += tl.load(at, mask=inside, other=0).to(ACC)
    tl.store(at, through.to(dx[0].dtype.element_ty), mask=inside)


class _Call:
    """One call: its cut into tiles, and what both kernels are given."""

    def __init__(self, x: Tensor, weight: Tensor, bias, rows, silu: bool, reverse: Sequence[bool]):
        _, self.batch, self.length, self.channels = x.shape
        self.walks, self.taps = weight.shape[0], weight.shape[2]
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        width = max(16, min(WIDEST, triton.next_power_of_2(self.channels)))
        steps = TILE // width
        self.tiles = -(-self.length // steps)
        self.grid = (self.batch * self.tiles, -(-self.channels // width), self.walks)
        self.weight = weight.detach().to(self.dtype).transpose(1, 2).contiguous()  # (k, w, d)
        bias, rows = (None if t is None else t.contiguous() for t in (bias, rows))
        self.inputs = (sequence(x), self.weight, bias, rows)
        mask = sum(1 << walk for walk, backwards in enumerate(reverse) if backwards)
        self.sizes = (self.length, self.channels, self.tiles, mask)
        self.options = {
            "SILU": silu,
            "TAPS": self.taps,
            "STEPS": steps,
            "WIDTH": width,
            "ACC": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "num_warps": 4,
            "enable_fp_fusion": True,
        }


def forward(x: Tensor, weight: Tensor, bias, rows, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """-> y (k, b, l, d) in x's dtype."""
    call = _Call(x, weight, bias, rows, silu, reverse)
    y = torch.empty((call.walks, *x.shape[1:]), dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        conv_forward[call.grid](*call.inputs, sequence(y), *call.sizes, 0, **call.options)
    return y


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias, rows, silu: bool, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x, weight, bias; the latter two in the dtype of the sums."""
    call = _Call(x, weight, bias, rows, silu, reverse)
    shared = len(x) == 1 and call.walks > 1
    dx = torch.empty(x.shape, dtype=call.dtype if shared else x.dtype, device=x.device)
    parts = (call.walks, call.grid[0])
    dweight = torch.empty((*parts, call.taps, call.channels), dtype=call.dtype, device=x.device)
    dbias = torch.empty((*parts, call.channels), dtype=call.dtype, device=x.device)
    outputs = (sequence(dx), dweight, dbias)
    for first in range(call.walks if shared else 1):  # walks that share x add to its gradient one by one
        grid = (*call.grid[:2], 1) if shared else call.grid
        with torch.cuda.device_of(x):
            conv_backward[grid](
                sequence(dy), *call.inputs, *outputs, *call.sizes, first, ADD=first > 0, **call.options
            )
    return dx, dweight.sum(1).transpose(1, 2), dbias.sum(1)
