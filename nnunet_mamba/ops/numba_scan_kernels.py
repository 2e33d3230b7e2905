"""The two numba kernels of the selective scan: loops over tasks, chunks and rows around
`numba_scan_tiles`."""

from __future__ import annotations

from typing import NamedTuple

from nnunet_mamba.ops.constants import CHUNKS
from nnunet_mamba.ops.numba_scan_tiles import (
    add_sums,
    advance,
    finish,
    finish_gate,
    finish_gated,
    prepare,
    prepare_gate,
    prepare_softplus,
    prepare_softplus_and_slope,
    retreat,
    settle,
)
from nnunet_mamba.ops.numba_tasks import compiled, fetch, fill, move, prefetch_read, prefetch_write, token_at

CHUNK = CHUNKS["numba"]


# The names Problem and Scratch are pickled in numba's disk cache: renaming them breaks caches that exist.
class Problem(NamedTuple):
    """Call as integers: sizes, addresses of first values (0: absent), strides in bytes."""

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
    """Addresses where backward reads dy and writes the gradients; every array but dy is contiguous."""

    items: int  # b
    parts: int  # of dB and dC, so that threads which share a batch item write to different ones
    dy: int
    dy_batch: int
    dy_row: int
    du: int  # du, ddelta, dz: (b, l, d)
    ddelta: int
    dz: int
    dB: int  # dB, dC: (parts, b, g, l, n), zeros if there are several parts
    dC: int
    dA: int  # (b, g * blocks, n, block)
    dD: int  # dD, dbias: (b, g * blocks, block)
    dbias: int


class Scratch(NamedTuple):
    """Offsets of the arrays in a thread's scratch memory, in bytes; zeros at first, since sums remain
    there."""

    spare_u: int  # spares (block,): rows that end too early in memory, padded with zeros
    spare_delta: int
    spare_z: int
    spare_dy: int
    spare_y: int
    spare_ddelta: int
    spare_dz: int
    step: int  # (CHUNK, block), as are the next three
    step_u: int
    slope: int
    out: int
    B: int  # (CHUNK, n), as is C
    C: int
    h: int  # (n, block)
    dh: int  # (n, block); this and the rest for backward only
    dout: int  # (CHUNK, block), as are the next three
    dy_slope: int
    through_u: int
    through_decay: int
    sums_B: int  # partial sums of dB (CHUNK, tiles) vectors
    sums_C: int
    before: int  # (CHUNK, TILE) vectors
    decays: int


@compiled
def _channels(p, task):
    """Return batch item, block, group, first channel and number of channels of a task."""
    per_item = p.groups * p.blocks
    item, block = task // per_item, task % per_item
    group, start = block // p.blocks, (block % p.blocks) * p.block
    return item, block, group, group * p.group + start, min(p.block, p.group - start)


@compiled
def _kept(p, item, chunk, channel):
    """Return the address of the state before a chunk, from `channel` on."""
    chunks, channels = (p.length + CHUNK - 1) // CHUNK, p.groups * p.group
    return p.states + ((item * chunks + chunk) * p.n * channels + channel) * p.size


@compiled
def _prepare_chunk(tag, p, s, indices, item, group, channel, lanes, bias, start, n_steps, ahead, scratch):
    """Prepare step, step_u, B and C of a chunk in the order of the scan and, in backward, the slopes of step.

    Prefetches the inputs of the next chunk, `ahead` steps from this one.
    """
    width, at = p.block * p.size, channel * p.size
    for k in range(n_steps):
        r = token_at(p, indices, start + k)
        if 0 <= start + k + ahead < p.length:
            then = token_at(p, indices, start + k + ahead)
            prefetch_read(tag, p.block, p.u + item * p.u_batch + then * p.u_row + at)
            prefetch_read(tag, p.block, p.delta + item * p.delta_batch + then * p.delta_row + at)
            if p.z:
                prefetch_read(tag, p.block, p.z + item * p.z_batch + then * p.z_row + at)
        u = fetch(tag, lanes, p.block, p.u + item * p.u_batch + r * p.u_row + at, scratch + s.spare_u)
        delta = p.delta + item * p.delta_batch + r * p.delta_row + at
        delta = fetch(tag, lanes, p.block, delta, scratch + s.spare_delta)
        here = scratch + k * width
        step, step_u, out = here + s.step, here + s.step_u, here + s.out
        if p.softplus and ahead < 0:
            prepare_softplus_and_slope(tag, p.block, delta, u, bias, step, step_u, out, here + s.slope)
        elif p.softplus:
            prepare_softplus(tag, p.block, delta, u, bias, step, step_u, out)
        else:
            prepare(tag, p.block, delta, u, bias, step, step_u, out)
        states = scratch + k * p.n * p.size
        move(tag, p.n, p.B + item * p.B_batch + group * p.B_group + r * p.B_row, states + s.B)
        move(tag, p.n, p.C + item * p.C_batch + group * p.C_group + r * p.C_row, states + s.C)


@compiled
def scan_forward(tag, p, s, indices, first, last, thread, scratch):
    """Compute y, and the states before the chunks, of the tasks first..last-1."""
    width = p.block * p.size
    channels = p.groups * p.group
    for task in range(first, last):
        item, block, group, channel, lanes = _channels(p, task)
        whole, at = lanes == p.block, channel * p.size
        A, D, bias = p.A + block * p.n * width, p.D + block * width, p.bias + block * width
        fill(tag, p.n * p.block, scratch + s.h, 0)
        for start in range(0, p.length, CHUNK):
            n_steps = min(CHUNK, p.length - start)
            if p.states:
                kept = _kept(p, item, start // CHUNK, channel)
                for j in range(p.n):
                    move(tag, lanes, scratch + s.h + j * width, kept + j * channels * p.size)
            _prepare_chunk(
                tag, p, s, indices, item, group, channel, lanes, bias, start, n_steps, CHUNK, scratch
            )
            for k in range(n_steps):
                r = token_at(p, indices, start + k)
                prefetch_write(tag, p.block, p.y + (item * p.length + r) * channels * p.size + at)
            advance(
                tag, p.block, p.n, n_steps, A, scratch + s.step, scratch + s.step_u, scratch + s.B,
                scratch + s.C, scratch + s.h, scratch + s.out
            )  # fmt: skip
            for k in range(n_steps):
                r = token_at(p, indices, start + k)
                u = fetch(tag, lanes, p.block, p.u + item * p.u_batch + r * p.u_row + at, scratch + s.spare_u)
                target = p.y + (item * p.length + r) * channels * p.size + at
                y = target if whole else scratch + s.spare_y
                out = scratch + s.out + k * width
                if p.z:
                    z = p.z + item * p.z_batch + r * p.z_row + at
                    z = fetch(tag, lanes, p.block, z, scratch + s.spare_z)
                    finish_gated(tag, p.block, out, D, u, z, y)
                else:
                    finish(tag, p.block, out, D, u, y)
                if not whole:
                    move(tag, lanes, y, target)


@compiled
def _prepare_gates(tag, p, g, s, indices, item, channel, lanes, start, n_steps, scratch):
    """Compute the gradients of the gate's factors; without z, copy dy."""
    width, at = p.block * p.size, channel * p.size
    for k in range(n_steps):
        r = token_at(p, indices, start + k)
        target = (item * p.length + r) * p.groups * p.group * p.size + at
        prefetch_write(tag, p.block, g.du + target)
        prefetch_write(tag, p.block, g.ddelta + target)
        if start >= CHUNK:
            then = token_at(p, indices, start + k - CHUNK)
            prefetch_read(tag, p.block, g.dy + item * g.dy_batch + then * g.dy_row + at)
        dy = g.dy + item * g.dy_batch + r * g.dy_row + at
        dy = fetch(tag, lanes, p.block, dy, scratch + s.spare_dy)
        here = scratch + k * width
        if p.z:
            z = fetch(tag, lanes, p.block, p.z + item * p.z_batch + r * p.z_row + at, scratch + s.spare_z)
            prefetch_write(tag, p.block, g.dz + target)
            prepare_gate(tag, p.block, z, dy, here + s.dout, here + s.dy_slope)
        else:
            move(tag, p.block, dy, here + s.dout)


@compiled
def _settle_chunk(tag, p, g, s, indices, item, channel, lanes, D, dD, dbias, start, n_steps, scratch):
    """Write du, ddelta and dz of a chunk, and add to dD and dbias."""
    width, at, channels = p.block * p.size, channel * p.size, p.groups * p.group
    whole = lanes == p.block
    for k in range(n_steps):
        r = token_at(p, indices, start + k)
        u = fetch(tag, lanes, p.block, p.u + item * p.u_batch + r * p.u_row + at, scratch + s.spare_u)
        target = (item * p.length + r) * channels * p.size + at
        here = scratch + k * width
        if p.z:
            dz = g.dz + target if whole else scratch + s.spare_dz
            finish_gate(tag, p.block, here + s.out, D, u, here + s.dy_slope, dz)
            if not whole:
                move(tag, lanes, dz, g.dz + target)
        du = g.du + target if whole else scratch + s.spare_y
        ddelta = g.ddelta + target if whole else scratch + s.spare_ddelta
        settle(
            tag, p.block, u, here + s.step, here + s.slope, D, here + s.dout, here + s.through_u,
            here + s.through_decay, du, ddelta, dD, dbias
        )  # fmt: skip
        if not whole:
            move(tag, lanes, du, g.du + target)
            move(tag, lanes, ddelta, g.ddelta + target)


@compiled
def scan_backward(tag, p, g, s, indices, first, last, thread, scratch):
    """Compute the gradients of the tasks first..last-1."""
    width = p.block * p.size
    channels, state = p.groups * p.group, p.n * width
    chunks = (p.length + CHUNK - 1) // CHUNK
    fill(tag, CHUNK * p.block, scratch + s.slope, 1)
    for task in range(first, last):
        item, block, group, channel, lanes = _channels(p, task)
        A, D, bias = p.A + block * state, p.D + block * width, p.bias + block * width
        own = item * p.groups * p.blocks + block
        dA, dD, dbias = g.dA + own * state, g.dD + own * width, g.dbias + own * width
        first_row = ((thread % g.parts * g.items + item) * p.groups + group) * p.length
        begun = 1 if g.parts > 1 or block % p.blocks else 0
        fill(tag, p.n * p.block, scratch + s.dh, 0)
        fill(tag, p.n * p.block, scratch + s.h, 0)
        for chunk in range(chunks - 1, -1, -1):
            start = chunk * CHUNK
            n_steps = min(CHUNK, p.length - start)
            kept = _kept(p, item, chunk, channel)
            for j in range(p.n):
                move(tag, lanes, kept + j * channels * p.size, scratch + s.h + j * width)
            _prepare_chunk(
                tag, p, s, indices, item, group, channel, lanes, bias, start, n_steps, -CHUNK, scratch
            )
            _prepare_gates(tag, p, g, s, indices, item, channel, lanes, start, n_steps, scratch)
            retreat(
                tag, p.block, p.n, n_steps, A, scratch + s.step, scratch + s.step_u, scratch + s.B,
                scratch + s.C, scratch + s.h, scratch + s.out, scratch + s.dout, scratch + s.dh, dA,
                scratch + s.through_u, scratch + s.through_decay, scratch + s.sums_B, scratch + s.sums_C,
                scratch + s.before, scratch + s.decays
            )  # fmt: skip
            _settle_chunk(tag, p, g, s, indices, item, channel, lanes, D, dD, dbias, start, n_steps, scratch)
            for k in range(n_steps):
                at = (first_row + token_at(p, indices, start + k)) * p.n * p.size
                add_sums(tag, p.n, k, scratch + s.sums_B, g.dB + at, begun)
                add_sums(tag, p.n, k, scratch + s.sums_C, g.dC + at, begun)
