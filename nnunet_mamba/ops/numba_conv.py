"""The causal depthwise convolution on CPUs, with SiLU, like `numba_scan`: rows in the order of the scan.

A task is one batch item and one block of at most BLOCK channels. It works in chunks, with tables of the
addresses of a chunk's rows, and filters STEPS rows at once, so that memory is all that it waits for.

Shapes: x, y (b, l, d); weight (d, w); bias (d,).
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from torch import Tensor

from nnunet_mamba.ops.numba_tasks import (
    Tasks,
    compiled,
    fetch,
    fill,
    move,
    prefetch_read,
    prefetch_write,
    readable,
    token_at,
)
from nnunet_mamba.ops.simd import RowBuilder, Variable, Vec, row_operation

TAKES_ALL_DIRECTIONS = False
BLOCK = 256
CHUNK = 16
STEPS = 4
USUAL_TAPS = 4


# The names Problem and Scratch are pickled in numba's disk cache: renaming them breaks caches that exist.
class Problem(NamedTuple):
    """Call as integers: sizes, addresses (0: absent), strides in bytes of tensors that need not be
    contiguous."""

    length: int
    channels: int
    taps: int
    chunk: int  # steps, no fewer than taps
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


class Scratch(NamedTuple):
    """Offsets of the arrays in a thread's scratch memory, in bytes; tables hold addresses of rows."""

    sources: int  # (w - 1 + chunk,) rows that the chunk's steps read
    targets: int  # (chunk,)
    gradients: int  # (chunk,) of dy
    zeros: int  # (block,), as is the next
    no_bias: int
    spare_x: int  # (w - 1 + chunk, block) rows that end too early in memory; the next two (chunk, block)
    spare_y: int
    spare_dy: int
    d_before: int  # (chunk + w - 1, block) gradients before SiLU: of the chunk, then of the steps after it


@row_operation
def note(row: RowBuilder, table, k, number):
    """Write a number to a table."""
    row.note(table, k, number)


def _filtered(row: RowBuilder, at, t, steps: int, taps, sources, weight, width, bias) -> list[Variable]:
    """Return bias + sum over the taps, for the steps t, t + 1, ..."""
    totals = [row.variable(row.load(bias, at)) for _ in range(steps)]
    for k in row.repeat_mostly(taps, USUAL_TAPS):
        factor = row.load(weight, row.index(k, width, at))
        for s, total in enumerate(totals):
            total.value = _source(row, sources, t, k, s, at).times_plus(factor, total.value)
    return totals


def _source(row: RowBuilder, sources, t, k, s: int, at) -> Vec:
    """Return the values that tap k reads at step t + s."""
    return row.load(row.noted(sources, row.plus(row.builder.add(t, k), s)), at)


@row_operation
def filter_rows(row: RowBuilder, width, n_steps, taps, sources, weight, bias, targets):
    """Compute targets[t] = bias + sum over k of weight[k] sources[t + k]."""
    for t, steps in row.groups(n_steps, STEPS):
        for at in row.lanes(width):
            totals = _filtered(row, at, t, steps, taps, sources, weight, width, bias)
            for s, total in enumerate(totals):
                row.store(row.noted(targets, row.plus(t, s)), at, total.value)


@row_operation
def filter_rows_silu(row: RowBuilder, width, n_steps, taps, sources, weight, bias, targets):
    """Compute `filter_rows`, then SiLU."""
    for t, steps in row.groups(n_steps, STEPS):
        for at in row.lanes(width):
            totals = _filtered(row, at, t, steps, taps, sources, weight, width, bias)
            for s, total in enumerate(totals):
                value = total.value * row.sigmoid(total.value)
                row.store(row.noted(targets, row.plus(t, s)), at, value)


@row_operation
def slopes_silu(row: RowBuilder, width, n_steps, taps, sources, weight, bias, gradients, d_before):
    """Compute d_before[t] = gradients[t] silu'(x), x being the result of `filter_rows`."""
    for t, steps in row.groups(n_steps, STEPS):
        for at in row.lanes(width):
            totals = _filtered(row, at, t, steps, taps, sources, weight, width, bias)
            for s, total in enumerate(totals):
                slope = row.silu_slope(total.value, row.sigmoid(total.value))
                gradient = row.load(row.noted(gradients, row.plus(t, s)), at)
                row.store(d_before, row.index(row.plus(t, s), width, at), gradient * slope)


@row_operation
def add_products(row: RowBuilder, width, n_steps, taps, sources, d_before, dweight, dbias):
    """Add sums over t of d_before[t] to dbias and of d_before[t] sources[t + k] to dweight[k]."""
    for t, steps in row.groups(n_steps, STEPS):
        for at in row.lanes(width):
            factors = [row.load(d_before, row.index(row.plus(t, s), width, at)) for s in range(steps)]
            row.store(dbias, at, sum(factors, row.load(dbias, at)))
            for k in row.repeat_mostly(taps, USUAL_TAPS):
                place = row.index(k, width, at)
                total = row.load(dweight, place)
                for s, factor in enumerate(factors):
                    total = _source(row, sources, t, k, s, at).times_plus(factor, total)
                row.store(dweight, place, total)


@compiled
def _note_sources(tag, p, s, indices, x, lanes, start, n_steps, ahead, scratch):
    """Note the rows that a chunk's steps read; prefetch those of the next chunk."""
    width = p.block * p.size
    for k in range(n_steps + p.taps - 1):
        t = start - p.taps + 1 + k
        if t < 0:
            note(tag, scratch + s.sources, k, scratch + s.zeros)
        else:
            row = fetch(
                tag, lanes, p.block, x + token_at(p, indices, t) * p.x_row, scratch + s.spare_x + k * width
            )
            note(tag, scratch + s.sources, k, row)
        if 0 <= t + ahead < p.length:
            prefetch_read(tag, p.block, x + token_at(p, indices, t + ahead) * p.x_row)


@compiled
def conv_forward(tag, p, s, indices, first, last, thread, scratch):
    """Compute y of the tasks first..last-1."""
    width = p.block * p.size
    for task in range(first, last):
        item, block = task // p.blocks, task % p.blocks
        lanes = min(p.block, p.channels - block * p.block)
        x = p.x + item * p.x_batch + block * width
        weight, bias = p.weight + block * p.taps * width, p.bias + block * width
        for start in range(0, p.length, p.chunk):
            n_steps = min(p.chunk, p.length - start)
            _note_sources(tag, p, s, indices, x, lanes, start, n_steps, p.chunk, scratch)
            for k in range(n_steps):
                y = (
                    p.y
                    + (item * p.length + token_at(p, indices, start + k)) * p.channels * p.size
                    + block * width
                )
                prefetch_write(tag, p.block, y)
                note(tag, scratch + s.targets, k, y if lanes == p.block else scratch + s.spare_y + k * width)
            sources, targets = scratch + s.sources, scratch + s.targets
            if p.silu:
                filter_rows_silu(tag, p.block, n_steps, p.taps, sources, weight, bias, targets)
            else:
                filter_rows(tag, p.block, n_steps, p.taps, sources, weight, bias, targets)
            if lanes != p.block:
                _put_back(tag, p, s, indices, item, block, lanes, start, n_steps, scratch)


@compiled
def _put_back(tag, p, s, indices, item, block, lanes, start, n_steps, scratch):
    """Copy a chunk's rows of `lanes` values from the spare ones to y."""
    width = p.block * p.size
    for k in range(n_steps):
        y = p.y + (item * p.length + token_at(p, indices, start + k)) * p.channels * p.size + block * width
        move(tag, lanes, scratch + s.spare_y + k * width, y)


@compiled
def _note_gradients(tag, p, s, indices, item, block, lanes, start, n_steps, scratch):
    """Note the rows of dy and, from the last step to the first, the rows of dx."""
    width = p.block * p.size
    whole = lanes == p.block
    for k in range(n_steps):
        r = token_at(p, indices, start + k)
        dx = p.y + (item * p.length + r) * p.channels * p.size + block * width
        prefetch_write(tag, p.block, dx)
        note(tag, scratch + s.targets, n_steps - 1 - k, dx if whole else scratch + s.spare_y + k * width)
        dy = p.dy + item * p.dy_batch + block * width
        if start >= p.chunk:
            prefetch_read(tag, p.block, dy + token_at(p, indices, start + k - p.chunk) * p.dy_row)
        dy = fetch(tag, lanes, p.block, dy + r * p.dy_row, scratch + s.spare_dy + k * width)
        if p.silu:
            note(tag, scratch + s.gradients, k, dy)
        else:
            move(tag, p.block, dy, scratch + s.d_before + k * width)


@compiled
def _note_gradient_sources(tag, p, s, n_steps, scratch):
    """Note the rows that dx reads: tap k of dx_t reads the gradient of step t + w - 1 - k."""
    width = p.block * p.size
    for k in range(n_steps + p.taps - 1):
        step = n_steps + p.taps - 2 - k
        place = step if step < n_steps else p.chunk + step - n_steps
        note(tag, scratch + s.sources, k, scratch + s.d_before + place * width)


@compiled
def conv_backward(tag, p, s, indices, first, last, thread, scratch):
    """Compute the gradients of the tasks first..last-1, from the last step to the first."""
    width = p.block * p.size
    sources, targets, d_before = scratch + s.sources, scratch + s.targets, scratch + s.d_before
    for task in range(first, last):
        item, block = task // p.blocks, task % p.blocks
        lanes = min(p.block, p.channels - block * p.block)
        x = p.x + item * p.x_batch + block * width
        weight, bias = p.weight + block * p.taps * width, p.bias + block * width
        dweight, dbias = p.dweight + task * p.taps * width, p.dbias + task * width
        later = d_before + p.chunk * width
        fill(tag, (p.taps - 1) * p.block, later, 0)
        for start in range((p.length - 1) // p.chunk * p.chunk, -1, -p.chunk):
            n_steps = min(p.chunk, p.length - start)
            _note_sources(tag, p, s, indices, x, lanes, start, n_steps, -p.chunk, scratch)
            _note_gradients(tag, p, s, indices, item, block, lanes, start, n_steps, scratch)
            if p.silu:
                gradients = scratch + s.gradients
                slopes_silu(tag, p.block, n_steps, p.taps, sources, weight, bias, gradients, d_before)
            add_products(tag, p.block, n_steps, p.taps, sources, d_before, dweight, dbias)
            _note_gradient_sources(tag, p, s, n_steps, scratch)
            filter_rows(tag, p.block, n_steps, p.taps, sources, weight, scratch + s.no_bias, targets)
            move(tag, min(p.taps - 1, n_steps) * p.block, d_before, later)
            if lanes != p.block:
                _put_back(tag, p, s, indices, item, block, lanes, start, n_steps, scratch)


class _ConvCall(Tasks):
    """Tensors of one call, in the form that the kernels take."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        indices: Tensor | None,
        silu: bool,
        reverse: bool,
    ):
        super().__init__(x, 1, BLOCK, indices)
        self.x, self.taps = readable(x, self.dtype), weight.shape[1]
        self.chunk = max(CHUNK, self.taps)
        self.weight, self.bias = self.pad(weight), self.pad(bias)
        self.silu, self.reverse = silu, reverse

    def problem(
        self, y: Tensor, dy: Tensor | None = None, dweight: Tensor | None = None, dbias: Tensor | None = None
    ) -> Problem:
        """Return the call as integers."""
        sizes = (self.length, self.channels, self.taps, self.chunk, self.block, self.blocks, self.size)
        places = (self.place(t)[0] for t in (self.weight, self.bias, y, dweight, dbias))
        return Problem(
            *sizes, int(self.silu), int(self.reverse), *self.place(self.x, 2), *self.place(dy, 2), *places
        )

    def scratch(self) -> tuple[Scratch, int]:
        """Return the offsets of a thread's arrays, and how many values they hold."""
        table = -(-8 * (self.chunk + self.taps) // self.size)
        seen, row = (self.taps - 1 + self.chunk) * self.block, self.block
        sizes = (table, table, table, row, row, seen, self.chunk * row, self.chunk * row, seen)
        ends = list(accumulate(sizes))
        return Scratch(*(self.size * start for start in (0, *ends[:-1]))), ends[-1]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    indices: Tensor | None,
    silu: bool,
    reverse: bool,
    y: Tensor,
) -> None:
    """Fill y (b, l, d), contiguous and in the accumulation dtype."""
    call = _ConvCall(x, weight, bias, indices, silu, reverse)
    scratch, size = call.scratch()
    call.run(conv_forward, size, call.problem(y), scratch)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    indices: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x (b, l, d), weight (d, w), bias (d,) in the accumulation dtype."""
    call = _ConvCall(x, weight, bias, indices, silu, reverse)
    dy, dx = readable(dy, call.dtype), call.empty(*x.shape)
    dweight, dbias = call.sums(call.taps), call.sums(1)
    scratch, size = call.scratch()
    call.run(conv_backward, size, call.problem(dx, dy, dweight, dbias), scratch)
    return dx, call.unpad(dweight), call.unpad(dbias)[:, 0]
