"""The causal depthwise convolution on CPUs, with SiLU, in the manner of `numba_scan`: rows in walking order.

Shapes: x, y (b, l, d); weight (d, w); bias (d,). A task is one batch item and one block of channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_mamba.ops.numba_tasks import Tasks, compiled, fetch, fill, move, readable, visit
from nnunet_mamba.ops.simd import Row, row_operation

BLOCK = 256


class Problem(NamedTuple):
    """One call in integers: sizes, addresses (0: absent), strides in bytes of what need not be contiguous."""

    length: int
    channels: int
    taps: int
    block: int
    blocks: int
    size: int
    silu: int
    reverse: int
    x: int
    x_batch: int
    x_row: int
    dy: int
    dy_batch: int
    dy_row: int
    weight: int  # (blocks, w, block)
    bias: int  # (blocks, block)
    y: int  # (b, l, d), or dx
    dweight: int  # (b, blocks, w, block)
    dbias: int  # (b, blocks, block)


@row_operation
def add_product(row: Row, width, x, factor, total):
    """total += x factor"""
    for at in row.lanes(width):
        row.store(total, at, row.load(x, at).times_plus(row.load(factor, at), row.load(total, at)))


@row_operation
def apply_silu(row: Row, width, y):
    for at in row.lanes(width):
        value = row.load(y, at)
        row.store(y, at, value * row.sigmoid(value))


@row_operation
def through_silu(row: Row, width, before, dy):
    """dy *= silu'(before)"""
    for at in row.lanes(width):
        value = row.load(before, at)
        s = row.sigmoid(value)
        row.store(dy, at, row.load(dy, at) * (s * value.times_plus(row.lift(1.0) - s, 1.0)))


@row_operation
def add_row(row: Row, width, x, total):
    for at in row.lanes(width):
        row.store(total, at, row.load(total, at) + row.load(x, at))


@compiled
def _filtered(tag, p, rows, t, x, lanes, weight, bias, spare, total):
    """total = bias + sum over the taps, at step t of the walk; `x` is the block's first value in the item."""
    move(tag, p.block, bias, total)
    for k in range(max(0, p.taps - 1 - t), p.taps):
        source = fetch(tag, lanes, p.block, x + visit(p, rows, t - p.taps + 1 + k) * p.x_row, spare)
        add_product(tag, p.block, source, weight + k * p.block * p.size, total)


@compiled
def conv_forward(tag, p, rows, first, last, thread, scratch):
    """Tasks first..last-1. Scratch: 2 rows of `block` values, zeros."""
    width = p.block * p.size
    for task in range(first, last):
        item, block = task // p.blocks, task % p.blocks
        lanes = min(p.block, p.channels - block * p.block)
        x = p.x + item * p.x_batch + block * width
        weight, bias = p.weight + block * p.taps * width, p.bias + block * width
        for t in range(p.length):
            target = p.y + (item * p.length + visit(p, rows, t)) * p.channels * p.size + block * width
            y = target if lanes == p.block else scratch + width
            _filtered(tag, p, rows, t, x, lanes, weight, bias, scratch, y)
            if p.silu:
                apply_silu(tag, p.block, y)
            if lanes != p.block:
                move(tag, lanes, y, target)


@compiled
def conv_backward(tag, p, rows, first, last, thread, scratch):
    """Tasks first..last-1, from the last step to the first. Scratch: w + 3 rows of `block` values, zeros."""
    width = p.block * p.size
    spare, before, dx_spare, ring = scratch, scratch + width, scratch + 2 * width, scratch + 3 * width
    for task in range(first, last):
        item, block = task // p.blocks, task % p.blocks
        lanes = min(p.block, p.channels - block * p.block)
        at = item * p.x_batch + block * width
        weight, bias = p.weight + block * p.taps * width, p.bias + block * width
        dweight, dbias = p.dweight + task * p.taps * width, p.dbias + task * width
        # the gradients before SiLU of steps t .. t + w - 1, that of step s in place s % w
        fill(tag, p.taps * p.block, ring, 0)
        for t in range(p.length - 1, -1, -1):
            r = visit(p, rows, t)
            d_before = ring + (t % p.taps) * width
            move(tag, lanes, p.dy + item * p.dy_batch + r * p.dy_row + block * width, d_before)
            if p.silu:
                _filtered(tag, p, rows, t, p.x + at, lanes, weight, bias, spare, before)
                through_silu(tag, p.block, before, d_before)
            add_row(tag, p.block, d_before, dbias)
            for k in range(max(0, p.taps - 1 - t), p.taps):
                source = fetch(
                    tag, lanes, p.block, p.x + at + visit(p, rows, t - p.taps + 1 + k) * p.x_row, spare
                )
                add_product(tag, p.block, source, d_before, dweight + k * width)
            target = p.y + (item * p.length + r) * p.channels * p.size + block * width
            dx = target if lanes == p.block else dx_spare
            fill(tag, p.block, dx, 0)
            for k in range(p.taps):
                add_product(
                    tag, p.block, ring + ((t + p.taps - 1 - k) % p.taps) * width, weight + k * width, dx
                )
            if lanes != p.block:
                move(tag, lanes, dx, target)


class _Call(Tasks):
    """The tensors of one call, as the kernels want them."""

    def __init__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, silu: bool, reverse: bool
    ):
        super().__init__(x, 1, BLOCK, rows)
        self.x, self.taps = readable(x, self.dtype), weight.shape[1]
        self.weight, self.bias = self.pad(weight), self.pad(bias)
        self.silu, self.reverse = silu, reverse

    def problem(
        self, y: Tensor, dy: Tensor | None = None, dweight: Tensor | None = None, dbias: Tensor | None = None
    ) -> Problem:
        sizes = (self.length, self.channels, self.taps, self.block, self.blocks, self.size)
        places = (self.place(t)[0] for t in (self.weight, self.bias, y, dweight, dbias))
        return Problem(
            *sizes, int(self.silu), int(self.reverse), *self.place(self.x, 2), *self.place(dy, 2), *places
        )


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """-> y (b, l, d) in x's dtype."""
    call = _Call(x, weight, bias, rows, silu, reverse)
    y = torch.empty(x.shape, dtype=call.dtype)
    call.run(conv_forward, 2 * call.block, call.problem(y))
    return y.to(x.dtype)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, silu: bool, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x (b, l, d), weight (d, w), bias (d,) in the dtype of the sums."""
    call = _Call(x, weight, bias, rows, silu, reverse)
    dy, dx = readable(dy, call.dtype), torch.empty(x.shape, dtype=call.dtype)
    dweight, dbias = call.sums(call.taps), call.sums(1)
    call.run(conv_backward, (call.taps + 3) * call.block, call.problem(dx, dy, dweight, dbias))
    return dx, call.unpad(dweight), call.unpad(dbias)[:, 0]
