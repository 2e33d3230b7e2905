"""The selective scan on CPUs: numba loops over rows of SIMD arithmetic, channels last.

A task is one batch item and one block of at most BLOCK channels; it walks the sequence once with its state in
the first-level cache. Forward keeps the state before every chunk of CHUNK steps; backward recomputes the
states of one chunk at a time from there, so the states of a whole sequence are never stored.

Inputs are read where they lie (any batch and row strides, channels contiguous) in the order of `rows`. Sums
are float64 for float64 inputs, else float32, and deterministic for a given number of threads.

Shapes: b batch, l tokens, d channels, g groups, n states; u, delta, z, y (b, l, d); A (d, n); B, C (b, g, l,
n).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_mamba.ops.numba_tasks import Tasks, compiled, fetch, fill, move, readable, visit
from nnunet_mamba.ops.simd import VECTOR, Row, row_operation

BLOCK = 64
CHUNK = 32


class Problem(NamedTuple):
    """One call in integers: sizes, addresses of first values (0: absent), strides in bytes."""

    length: int
    n: int
    block: int  # channels per task, padded to whole vectors
    blocks: int  # per group
    group: int  # channels per group
    groups: int
    size: int  # bytes per value
    softplus: int
    reverse: int
    u: int
    u_batch: int
    u_row: int
    delta: int
    delta_batch: int
    delta_row: int
    z: int
    z_batch: int
    z_row: int
    B: int
    B_batch: int
    B_group: int
    B_row: int
    C: int
    C_batch: int
    C_group: int
    C_row: int
    A: int  # (g * blocks, n, block), times log2(e)
    D: int  # (g * blocks, block)
    bias: int  # (g * blocks, block)
    states: int  # (b, chunks, n, d)
    y: int  # (b, l, d)


class Gradients(NamedTuple):
    """Where backward reads dy and writes the rest; every array but dy contiguous."""

    items: int  # b
    parts: int  # of dB and dC, so that threads which share a batch item write to different ones
    dy: int
    dy_batch: int
    dy_row: int
    du: int  # du, ddelta, dz: (b, l, d)
    ddelta: int
    dz: int
    dB: int  # dB, dC: (parts, b, g, l, n)
    dC: int
    dA: int  # (b, g * blocks, n, block)
    dD: int  # dD, dbias: (b, g * blocks, block)
    dbias: int


@row_operation
def prepare(row: Row, width, delta, u, bias, step, step_u):
    """step = delta + bias; step_u = step u"""
    for at in row.lanes(width):
        value = row.load(delta, at) + row.load(bias, at)
        row.store(step, at, value)
        row.store(step_u, at, value * row.load(u, at))


@row_operation
def prepare_softplus(row: Row, width, delta, u, bias, step, step_u):
    """step = softplus(delta + bias); step_u = step u"""
    for at in row.lanes(width):
        value = row.softplus(row.load(delta, at) + row.load(bias, at))
        row.store(step, at, value)
        row.store(step_u, at, value * row.load(u, at))


@row_operation
def slope_of_softplus(row: Row, width, delta, bias, slope):
    for at in row.lanes(width):
        row.store(slope, at, row.sigmoid(row.load(delta, at) + row.load(bias, at)))


@row_operation
def advance(row: Row, width, n, A, step, step_u, B, C, before, after, out):
    """after = 2**(step A) before + step_u B; out = sum over the states of C after"""
    for at in row.lanes(width):
        step_v, step_u_v, total = row.load(step, at), row.load(step_u, at), row.variable()
        for j in row.repeat(n):
            here = row.index(j, width, at)
            decay = row.exp2(step_v * row.load(A, here))
            state = decay.times_plus(row.load(before, here), step_u_v * row.broadcast(B, j))
            row.store(after, here, state)
            total.value = state.times_plus(row.broadcast(C, j), total.value)
        row.store(out, at, total.value)


@row_operation
def finish(row: Row, width, out, D, u, y):
    """y = out + D u"""
    for at in row.lanes(width):
        row.store(y, at, row.load(D, at).times_plus(row.load(u, at), row.load(out, at)))


@row_operation
def gate(row: Row, width, y, z):
    """y *= silu(z)"""
    for at in row.lanes(width):
        z_v = row.load(z, at)
        row.store(y, at, row.load(y, at) * (z_v * row.sigmoid(z_v)))


@row_operation
def ungate(row: Row, width, y, z, dy, dout, dz):
    """Through y silu(z), y not yet gated: dout = dy silu(z); dz = dy y silu'(z)."""
    for at in row.lanes(width):
        z_v, dy_v = row.load(z, at), row.load(dy, at)
        s = row.sigmoid(z_v)
        row.store(dout, at, dy_v * (z_v * s))
        slope = s * z_v.times_plus(row.lift(1.0) - s, 1.0)
        row.store(dz, at, dy_v * row.load(y, at) * slope)


@row_operation
def retreat(row: Row, width, n, A, step, step_u, B, C, before, after, dout, dh, dA, dB, dC, d_step_u, d_step):
    """One step back in time. `dh` brings the gradient that later steps send to `after` and takes that for
    `before`; dB, dC hold one vector per state; d_step leaves out the factor ln 2 of d/dx 2**x."""
    for at in row.lanes(width):
        step_v, step_u_v, dout_v = row.load(step, at), row.load(step_u, at), row.load(dout, at)
        through_u, through_decay = row.variable(), row.variable()
        for j in row.repeat(n):
            here, slot = row.index(j, width, at), row.slot(j)
            a = row.load(A, here)
            grad = dout_v.times_plus(row.broadcast(C, j), row.load(dh, here))
            row.store(dC, slot, dout_v.times_plus(row.load(after, here), row.load(dC, slot)))
            row.store(dB, slot, grad.times_plus(step_u_v, row.load(dB, slot)))
            through_u.value = grad.times_plus(row.broadcast(B, j), through_u.value)
            earlier = grad * row.exp2(step_v * a)
            d_exponent = earlier * row.load(before, here)
            through_decay.value = d_exponent.times_plus(a, through_decay.value)
            row.store(dA, here, d_exponent.times_plus(step_v, row.load(dA, here)))
            row.store(dh, here, earlier)
        row.store(d_step_u, at, through_u.value)
        row.store(d_step, at, through_decay.value)


@row_operation
def add_sums(row: Row, n, sums, target):
    """target[j] += sum of the lanes of sums[j]; sums[j] = 0"""
    for j in row.repeat(n):
        row.add_sum(target, j, row.load(sums, row.slot(j)))
        row.store(sums, row.slot(j), row.lift(0.0))


@row_operation
def settle(row: Row, width, u, step, slope, D, dout, d_step_u, d_step, du, ddelta, dD, dbias):
    """From the gradients of step_u and of the exponents to those of u, delta, D and bias."""
    for at in row.lanes(width):
        u_v, dout_v, through_u = row.load(u, at), row.load(dout, at), row.load(d_step_u, at)
        row.store(du, at, through_u.times_plus(row.load(step, at), dout_v * row.load(D, at)))
        d_delta = through_u.times_plus(u_v, row.load(d_step, at) * math.log(2.0)) * row.load(slope, at)
        row.store(ddelta, at, d_delta)
        row.store(dD, at, dout_v.times_plus(u_v, row.load(dD, at)))
        row.store(dbias, at, row.load(dbias, at) + d_delta)


@compiled
def _prepare(tag, p, delta, u, bias, step, step_u):
    if p.softplus:
        prepare_softplus(tag, p.block, delta, u, bias, step, step_u)
    else:
        prepare(tag, p.block, delta, u, bias, step, step_u)


@compiled
def _channels(p, task):
    """Batch item, block, group, first channel and number of channels of a task."""
    per_item = p.groups * p.blocks
    item, block = task // per_item, task % per_item
    group, start = block // p.blocks, (block % p.blocks) * p.block
    return item, block, group, group * p.group + start, min(p.block, p.group - start)


@compiled
def scan_forward(tag, p, rows, first, last, thread, scratch):
    """Tasks first..last-1. Scratch: n + 7 rows of `block` values, zeros."""
    width = p.block * p.size
    step, step_u, out = scratch, scratch + width, scratch + 2 * width
    spare_u, spare_delta, spare_z, spare_y = (
        step + 3 * width,
        step + 4 * width,
        step + 5 * width,
        step + 6 * width,
    )
    h = step + 7 * width
    channels = p.groups * p.group
    for task in range(first, last):
        item, block, group, c, lanes = _channels(p, task)
        A, D, bias = p.A + block * p.n * width, p.D + block * width, p.bias + block * width
        fill(tag, p.n * p.block, h, 0)
        for t in range(p.length):
            if p.states and t % CHUNK == 0:
                kept = (
                    p.states
                    + ((item * ((p.length + CHUNK - 1) // CHUNK) + t // CHUNK) * p.n * channels + c) * p.size
                )
                for j in range(p.n):
                    move(tag, lanes, h + j * width, kept + j * channels * p.size)
            r = visit(p, rows, t)
            at = c * p.size
            u = fetch(tag, lanes, p.block, p.u + item * p.u_batch + r * p.u_row + at, spare_u)
            delta = fetch(
                tag, lanes, p.block, p.delta + item * p.delta_batch + r * p.delta_row + at, spare_delta
            )
            _prepare(tag, p, delta, u, bias, step, step_u)
            B = p.B + item * p.B_batch + group * p.B_group + r * p.B_row
            C = p.C + item * p.C_batch + group * p.C_group + r * p.C_row
            advance(tag, p.block, p.n, A, step, step_u, B, C, h, h, out)
            target = p.y + (item * p.length + r) * channels * p.size + at
            y = target if lanes == p.block else spare_y
            finish(tag, p.block, out, D, u, y)
            if p.z:
                z = fetch(tag, lanes, p.block, p.z + item * p.z_batch + r * p.z_row + at, spare_z)
                gate(tag, p.block, y, z)
            if lanes != p.block:
                move(tag, lanes, y, target)


@compiled
def scan_backward(tag, p, g, rows, first, last, thread, scratch):
    """Tasks first..last-1. Scratch: (CHUNK + 2) n + 3 CHUNK + 11 rows and 2 n vectors."""
    width = p.block * p.size
    channels, state = p.groups * p.group, p.n * width
    chunks = (p.length + CHUNK - 1) // CHUNK
    h = scratch
    dh = h + (CHUNK + 1) * state
    steps = dh + state
    steps_u, outs = steps + CHUNK * width, steps + 2 * CHUNK * width
    d_step_u = steps + 3 * CHUNK * width
    d_step, dout, slope = d_step_u + width, d_step_u + 2 * width, d_step_u + 3 * width
    spare_u, spare_delta, spare_z, spare_dy = (
        slope + width,
        slope + 2 * width,
        slope + 3 * width,
        slope + 4 * width,
    )
    spare_du, spare_ddelta, spare_dz = slope + 5 * width, slope + 6 * width, slope + 7 * width
    sums_B = slope + 8 * width
    sums_C = sums_B + p.n * VECTOR * p.size
    fill(tag, p.block, slope, 1)
    for task in range(first, last):
        item, block, group, c, lanes = _channels(p, task)
        whole, at = lanes == p.block, c * p.size
        A, D, bias = p.A + block * state, p.D + block * width, p.bias + block * width
        own = item * p.groups * p.blocks + block
        dA, dD, dbias = g.dA + own * state, g.dD + own * width, g.dbias + own * width
        B_item, C_item = (
            p.B + item * p.B_batch + group * p.B_group,
            p.C + item * p.C_batch + group * p.C_group,
        )
        first_row = ((thread % g.parts * g.items + item) * p.groups + group) * p.length
        fill(tag, p.n * p.block, dh, 0)
        for chunk in range(chunks - 1, -1, -1):
            start = chunk * CHUNK
            n_steps = min(CHUNK, p.length - start)
            kept = p.states + ((item * chunks + chunk) * p.n * channels + c) * p.size
            for j in range(p.n):
                move(tag, lanes, kept + j * channels * p.size, h + j * width)
            for k in range(n_steps):
                r = visit(p, rows, start + k)
                u = fetch(tag, lanes, p.block, p.u + item * p.u_batch + r * p.u_row + at, spare_u)
                delta = fetch(
                    tag, lanes, p.block, p.delta + item * p.delta_batch + r * p.delta_row + at, spare_delta
                )
                step, step_u, before = steps + k * width, steps_u + k * width, h + k * state
                _prepare(tag, p, delta, u, bias, step, step_u)
                B, C = B_item + r * p.B_row, C_item + r * p.C_row
                advance(tag, p.block, p.n, A, step, step_u, B, C, before, before + state, outs + k * width)
            for k in range(n_steps - 1, -1, -1):
                r = visit(p, rows, start + k)
                u = fetch(tag, lanes, p.block, p.u + item * p.u_batch + r * p.u_row + at, spare_u)
                delta = fetch(
                    tag, lanes, p.block, p.delta + item * p.delta_batch + r * p.delta_row + at, spare_delta
                )
                dy = fetch(tag, lanes, p.block, g.dy + item * g.dy_batch + r * g.dy_row + at, spare_dy)
                target = (item * p.length + r) * channels * p.size + at
                step, step_u, before = steps + k * width, steps_u + k * width, h + k * state
                if p.z:
                    z = fetch(tag, lanes, p.block, p.z + item * p.z_batch + r * p.z_row + at, spare_z)
                    dz = g.dz + target if whole else spare_dz
                    finish(tag, p.block, outs + k * width, D, u, d_step)
                    ungate(tag, p.block, d_step, z, dy, dout, dz)
                    if not whole:
                        move(tag, lanes, dz, g.dz + target)
                    dy = dout
                B, C = B_item + r * p.B_row, C_item + r * p.C_row
                retreat(
                    tag,
                    p.block,
                    p.n,
                    A,
                    step,
                    step_u,
                    B,
                    C,
                    before,
                    before + state,
                    dy,
                    dh,
                    dA,
                    sums_B,
                    sums_C,
                    d_step_u,
                    d_step,
                )
                add_sums(tag, p.n, sums_B, g.dB + (first_row + r) * p.n * p.size)
                add_sums(tag, p.n, sums_C, g.dC + (first_row + r) * p.n * p.size)
                if p.softplus:
                    slope_of_softplus(tag, p.block, delta, bias, slope)
                du = g.du + target if whole else spare_du
                ddelta = g.ddelta + target if whole else spare_ddelta
                settle(tag, p.block, u, step, slope, D, dy, d_step_u, d_step, du, ddelta, dD, dbias)
                if not whole:
                    move(tag, lanes, du, g.du + target)
                    move(tag, lanes, ddelta, g.ddelta + target)


class _Call(Tasks):
    """The tensors of one call, as the kernels want them."""

    def __init__(self, u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: bool):
        super().__init__(u, B.shape[1], BLOCK, rows)
        self.n = A.shape[1]
        self.u, self.delta, self.B, self.C = (readable(t, self.dtype) for t in (u, delta, B, C))
        self.z = None if z is None else readable(z, self.dtype)
        self.A, self.D, self.bias = (
            self.pad(A.to(self.dtype) * math.log2(math.e)),
            self.pad(D),
            self.pad(bias),
        )
        self.softplus, self.reverse = softplus, reverse

    def problem(self, states: Tensor | None, y: Tensor | None) -> Problem:
        sizes = (self.length, self.n, self.block, self.blocks, self.group, self.groups, self.size)
        place = self.place
        sequences = (
            *place(self.u, 2),
            *place(self.delta, 2),
            *place(self.z, 2),
            *place(self.B, 3),
            *place(self.C, 3),
        )
        rest = (place(t)[0] for t in (self.A, self.D, self.bias, states, y))
        return Problem(*sizes, int(self.softplus), int(self.reverse), *sequences, *rest)

    def parts(self) -> int:
        """The largest number of threads that share one batch item."""
        per_item = self.groups * self.blocks
        edges = range(0, self.batch * per_item, per_item)
        return max(
            sum(first < edge + per_item and last > edge for first, last in self.ranges) for edge in edges
        )


def chunk_count(length: int) -> int:
    return -(-length // CHUNK)


def forward(
    u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """-> y (b, l, d) in u's dtype and, if `keep`, the states before each chunk (b, chunks, n, d)."""
    call = _Call(u, delta, A, B, C, D, z, bias, rows, softplus, reverse)
    y = torch.empty(u.shape, dtype=call.dtype)
    shape = (call.batch, chunk_count(call.length), call.n, call.channels) if keep else (0,)
    states = torch.empty(shape, dtype=call.dtype)
    call.run(scan_forward, (call.n + 7) * call.block, call.problem(states if keep else None, y))
    return y.to(u.dtype), states


def backward(
    dy, u, delta, A, B, C, D, z, bias, rows, states, softplus: bool, reverse: bool
) -> tuple[Tensor, ...]:
    """-> gradients of u, delta, A, B, C, D, z (empty without z) and bias, in the dtype of the sums."""
    call = _Call(u, delta, A, B, C, D, z, bias, rows, softplus, reverse)
    parts, dy = call.parts(), readable(dy, call.dtype)
    du, ddelta = (torch.empty(u.shape, dtype=call.dtype) for _ in range(2))
    dz = torch.empty(u.shape if z is not None else (0,), dtype=call.dtype)
    dB, dC = (call.zeros(parts, call.batch, call.groups, call.length, call.n) for _ in range(2))
    dA, dD, dbias = call.sums(call.n), call.sums(1), call.sums(1)
    addresses = (t.data_ptr() for t in (du, ddelta, dz, dB, dC, dA, dD, dbias))
    gradients = Gradients(call.batch, parts, *call.place(dy, 2), *addresses)
    n_scratch = ((CHUNK + 2) * call.n + 3 * CHUNK + 11) * call.block + 2 * call.n * VECTOR
    call.run(scan_backward, n_scratch, call.problem(states, None), gradients)
    return du, ddelta, call.unpad(dA), dB.sum(0), dC.sum(0), call.unpad(dD)[:, 0], dz, call.unpad(dbias)[:, 0]
