"""The two numba kernels of linear attention: loops over tasks, chunks and heads around
`numba_linear_attention_tiles`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nnunet_mamba.ops.constants import LINEAR_CHUNKS
from nnunet_mamba.ops.numba_linear_attention_tiles import (
    add_future,
    add_past,
    add_product,
    decay_edges,
    dot,
    gather_edges,
    gather_pairs,
    scale,
    transpose,
    weigh,
)
from nnunet_mamba.ops.numba_tasks import compiled, fill, move, token_at

CHUNK = LINEAR_CHUNKS["numba"]
FORGOTTEN = -1000.0  # the logarithm of a decay that is zero in any dtype; less would cost digits of the sums


# The names Problem and Scratch are pickled in numba's disk cache: renaming them breaks caches that exist.
class Problem(NamedTuple):
    """Call as integers: sizes, addresses of first values, strides in bytes."""

    batch: int
    length: int
    channels: int  # h p
    p: int
    width: int  # p, padded to whole vectors
    pitch: int  # from row to row of matrices with the channels of all heads of a task
    n: int
    depth: int  # n, padded to whole vectors
    groups: int
    group: int  # heads per group
    block: int  # heads per task
    blocks: int  # per group
    size: int  # bytes per value
    reverse: int
    values: int
    values_batch: int
    values_row: int
    keys: int
    keys_batch: int
    keys_row: int
    keys_group: int
    queries: int
    queries_batch: int
    queries_row: int
    queries_group: int
    states: int  # (b, chunks, n, h p); 0: absent
    y: int  # (b, l, h, p); in backward dy, with strides
    y_batch: int
    y_row: int
    dvalues: int  # (b, l, h, p); this and the rest for backward only
    dkeys: int  # (blocks, b, l, g, n), as is dqueries: every task adds up its own heads
    dqueries: int


class Scratch(NamedTuple):
    """Offsets of the matrices in a thread's scratch memory, in bytes; zeros at first, since padding stays."""

    keys: int  # (CHUNK, depth)
    queries: int
    keys_across: int  # (depth, CHUNK)
    products: int  # (CHUNK, CHUNK): queries keys^T
    decays: int
    weights: int
    values: int  # (CHUNK, pitch), the heads side by side, as are all with a pitch
    scaled: int
    out: int
    state: int  # (n, pitch); in backward the gradient of the state after the chunk
    queries_across: int  # this and the rest for backward only
    values_across: int  # (pitch, CHUNK)
    dout: int  # (CHUNK, pitch)
    dout_across: int
    before: int  # (n, pitch): the state before the chunk
    d_weights: int  # (CHUNK, CHUNK)
    d_products: int
    d_products_across: int
    through: int  # (depth, CHUNK)
    d_keys: int
    d_queries: int


@compiled
def _heads(p, task):
    """Return batch item, group, block, first head and number of heads of a task."""
    per_item = p.groups * p.blocks
    item, group, block = task // per_item, task % per_item // p.blocks, task % p.blocks
    return item, group, block, group * p.group + block * p.block, min(p.block, p.group - block * p.block)


@compiled
def _move_heads(tag, p, n_heads, source, source_width, target, target_width):
    """Copy the channels of some heads from a row with heads of `source_width` to one of `target_width`."""
    if p.p == p.width:
        move(tag, n_heads * p.p, source, target)
    else:
        for head in range(n_heads):
            own_source, own_target = head * source_width * p.size, head * target_width * p.size
            move(tag, p.p, source + own_source, target + own_target)


@compiled
def _gather(tag, p, indices, start, n_steps, n_heads, source, row_stride, target):
    """Copy the heads' channels in the rows of a chunk to a matrix (CHUNK, pitch), zeros after the last."""
    for k in range(n_steps):
        row = source + token_at(p, indices, start + k) * row_stride
        _move_heads(tag, p, n_heads, row, p.p, target + k * p.pitch * p.size, p.width)
    if n_steps < CHUNK:
        fill(tag, (CHUNK - n_steps) * p.pitch, target + n_steps * p.pitch * p.size, 0)


@compiled
def _scatter(tag, p, indices, start, n_steps, n_heads, source, target, row_stride):
    """Copy the heads' channels from a matrix (CHUNK, pitch) to the rows of a chunk."""
    for k in range(n_steps):
        row = target + token_at(p, indices, start + k) * row_stride
        _move_heads(tag, p, n_heads, source + k * p.pitch * p.size, p.width, row, p.p)


@compiled
def _gather_keys(tag, p, indices, start, n_steps, source, row_stride, target):
    """Copy keys or queries of a chunk to a matrix (CHUNK, depth), zeros after the last."""
    for k in range(n_steps):
        row = source + token_at(p, indices, start + k) * row_stride
        move(tag, p.n, row, target + k * p.depth * p.size)
    if n_steps < CHUNK:
        fill(tag, (CHUNK - n_steps) * p.depth, target + n_steps * p.depth * p.size, 0)


@compiled
def _past(log_decay):
    """Return 1 for columns s <= t of each row t, else 0, (CHUNK, CHUNK), below a row of zeros."""
    past = np.zeros((CHUNK + 1, CHUNK), log_decay.dtype)
    for t in range(CHUNK):
        past[t + 1, : t + 1] = 1
    return past


@compiled
def _prepare_logs(tag, p, indices, log_decay, item, first_head, n_heads, start, n_steps, logs):
    """Compute logs (block, 4, CHUNK) of a chunk: the sum of the base-2 logarithms up to each step in two
    parts, high and low, and the decays from the start and to the end."""
    for head in range(n_heads):
        total, own = 0.0, logs[head]
        for k in range(CHUNK):
            if k < n_steps:
                log = float(log_decay[item, token_at(p, indices, start + k), first_head + head])
                total += (FORGOTTEN if log < FORGOTTEN else log) * math.log2(math.e)
            own[0, k] = total
            own[1, k] = total - own[0, k]
        at, row = own.ctypes.data, CHUNK * p.size
        decay_edges(tag, CHUNK, n_steps - 1, at, at + row, at + 2 * row, at + 3 * row)


@compiled
def _prepare_group(tag, p, s, indices, item, group, start, n_steps, scratch):
    """Gather keys and queries of a chunk and compute their products."""
    source = p.keys + item * p.keys_batch + group * p.keys_group
    _gather_keys(tag, p, indices, start, n_steps, source, p.keys_row, scratch + s.keys)
    source = p.queries + item * p.queries_batch + group * p.queries_group
    _gather_keys(tag, p, indices, start, n_steps, source, p.queries_row, scratch + s.queries)
    transpose(tag, p.depth, p.depth, CHUNK, scratch + s.keys, scratch + s.keys_across)
    fill(tag, CHUNK * CHUNK, scratch + s.products, 0)
    add_product(
        tag, CHUNK, CHUNK, n_steps, p.n, scratch + s.queries, p.depth, 1, scratch + s.keys_across,
        scratch + s.products
    )  # fmt: skip


@compiled
def _weigh(tag, p, s, past, log, n_steps, scratch):
    """Compute decays and weights of a head's chunk; `log` is the address of its logs."""
    row = CHUNK * p.size
    weigh(
        tag, CHUNK, n_steps, log, log + row, past[1:].ctypes.data, scratch + s.products, scratch + s.decays,
        scratch + s.weights
    )  # fmt: skip


@compiled
def _move_state(tag, p, s, item, chunk, first_head, n_heads, keep, scratch, matrix):
    """Copy (n, pitch) to the state kept before a chunk, or from there unless `keep`."""
    chunks = (p.length + CHUNK - 1) // CHUNK
    kept = p.states + ((item * chunks + chunk) * p.n * p.channels + first_head * p.p) * p.size
    for j in range(p.n):
        own, there = matrix + j * p.pitch * p.size, kept + j * p.channels * p.size
        if keep:
            _move_heads(tag, p, n_heads, own, p.width, there, p.p)
        else:
            _move_heads(tag, p, n_heads, there, p.p, own, p.width)


@compiled
def attend_forward(tag, p, s, log_decay, indices, first, last, thread, scratch):
    """Compute y, and the states before the chunks, of the tasks first..last-1; log_decay (b, l, h)."""
    past, logs = _past(log_decay), np.zeros((p.block, 4, CHUNK), log_decay.dtype)
    state, out, values, scaled = (
        scratch + s.state, scratch + s.out, scratch + s.values, scratch + s.scaled
    )  # fmt: skip
    for task in range(first, last):
        item, group, _, first_head, n_heads = _heads(p, task)
        breadth, at = n_heads * p.width, first_head * p.p * p.size
        fill(tag, p.n * p.pitch, state, 0)
        for start in range(0, p.length, CHUNK):
            n_steps = min(CHUNK, p.length - start)
            _prepare_group(tag, p, s, indices, item, group, start, n_steps, scratch)
            _prepare_logs(tag, p, indices, log_decay, item, first_head, n_heads, start, n_steps, logs)
            source = p.values + item * p.values_batch + at
            _gather(tag, p, indices, start, n_steps, n_heads, source, p.values_row, values)
            if p.states:
                _move_state(tag, p, s, item, start // CHUNK, first_head, n_heads, True, scratch, state)
            fill(tag, n_steps * p.pitch, out, 0)
            add_product(tag, breadth, p.pitch, n_steps, p.n, scratch + s.queries, p.depth, 1, state, out)
            for head in range(n_heads):
                log, here = logs[head].ctypes.data, head * p.width * p.size
                from_start, to_end = log + 2 * CHUNK * p.size, log + 3 * CHUNK * p.size
                through = from_start + (n_steps - 1) * p.size
                _weigh(tag, p, s, past, log, n_steps, scratch)
                scale(tag, p.width, p.pitch, n_steps, from_start, 1, out + here, out + here)
                add_past(
                    tag, p.width, p.pitch, n_steps, scratch + s.weights, CHUNK, 1, values + here, out + here
                )
                scale(tag, p.width, p.pitch, n_steps, to_end, 1, values + here, scaled + here)
                scale(tag, p.width, p.pitch, p.n, through, 0, state + here, state + here)
            add_product(tag, breadth, p.pitch, p.n, n_steps, scratch + s.keys, 1, p.depth, scaled, state)
            target = p.y + item * p.y_batch + at
            _scatter(tag, p, indices, start, n_steps, n_heads, out, target, p.y_row)


@compiled
def _through_borders(tag, p, s, log, head, n_steps, sums, scratch):
    """Add to d_keys and d_queries what passes a chunk's borders; sum it for log_decay in rows 2 to 4 of
    sums."""
    here, across = head * p.width * p.size, head * p.width * CHUNK * p.size
    before, after, through = scratch + s.before + here, scratch + s.state + here, scratch + s.through
    from_start, to_end = log + 2 * CHUNK * p.size, log + 3 * CHUNK * p.size
    fill(tag, p.n * CHUNK, through, 0)
    add_product(
        tag, CHUNK, CHUNK, p.n, p.p, before, p.pitch, 1, scratch + s.dout_across + across, through
    )  # fmt: skip
    gather_edges(
        tag, CHUNK, p.n, from_start, through, scratch + s.queries_across, scratch + s.d_queries,
        sums[2].ctypes.data
    )  # fmt: skip
    fill(tag, p.n * CHUNK, through, 0)
    add_product(
        tag, CHUNK, CHUNK, p.n, p.p, after, p.pitch, 1, scratch + s.values_across + across, through
    )  # fmt: skip
    gather_edges(
        tag, CHUNK, p.n, to_end, through, scratch + s.keys_across, scratch + s.d_keys, sums[3].ctypes.data
    )
    dot(tag, p.width, p.pitch, p.n, before, after, sums[4].ctypes.data)


@compiled
def _write_decays(p, indices, log, sums, item, head, start, n_steps, dlog_decay):
    """Write the gradients of log_decay: at each step, the sum over all that passes it."""
    after, into = 0.0, float(sums[4, 0]) * float(log[2, n_steps - 1])
    for k in range(n_steps - 1, -1, -1):
        after += float(sums[0, k]) - float(sums[1, k]) + float(sums[2, k])
        sums[0, k] = after
    for k in range(n_steps):
        dlog_decay[item, token_at(p, indices, start + k), head] = sums[0, k] + into
        into += float(sums[3, k])


@compiled
def _head_backward(tag, p, s, past, log, head, n_steps, sums, scratch):
    """Compute the gradients of a head's values in a chunk, its part of those of keys, queries; the sums of
    its decays."""
    here, across = head * p.width * p.size, head * p.width * CHUNK * p.size
    from_start, to_end = log + 2 * CHUNK * p.size, log + 3 * CHUNK * p.size
    dout, out, state = scratch + s.dout + here, scratch + s.out + here, scratch + s.state + here
    _weigh(tag, p, s, past, log, n_steps, scratch)
    scale(tag, p.width, p.pitch, n_steps, to_end, 1, out, out)
    add_future(tag, p.width, p.pitch, n_steps, scratch + s.weights, 1, CHUNK, dout, out)
    fill(tag, n_steps * CHUNK, scratch + s.d_weights, 0)
    add_product(
        tag, CHUNK, CHUNK, n_steps, p.p, dout, p.pitch, 1, scratch + s.values_across + across,
        scratch + s.d_weights
    )  # fmt: skip
    fill(tag, CHUNK, sums[1].ctypes.data, 0)
    gather_pairs(
        tag, CHUNK, n_steps, past.ctypes.data, scratch + s.products, scratch + s.decays,
        scratch + s.d_weights, scratch + s.d_products, sums[0].ctypes.data, sums[1].ctypes.data
    )  # fmt: skip
    _through_borders(tag, p, s, log, head, n_steps, sums, scratch)
    scale(tag, p.width, p.pitch, n_steps, from_start, 1, dout, scratch + s.scaled + here)
    scale(tag, p.width, p.pitch, p.n, from_start + (n_steps - 1) * p.size, 0, state, state)


@compiled
def _begin_backward(tag, p, s, indices, item, group, at, n_heads, start, n_steps, scratch):
    """Gather the inputs of a chunk and their transposes, and clear its sums."""
    _prepare_group(tag, p, s, indices, item, group, start, n_steps, scratch)
    source = p.values + item * p.values_batch + at
    _gather(tag, p, indices, start, n_steps, n_heads, source, p.values_row, scratch + s.values)
    source = p.y + item * p.y_batch + at
    _gather(tag, p, indices, start, n_steps, n_heads, source, p.y_row, scratch + s.dout)
    breadth = n_heads * p.width
    transpose(tag, breadth, p.pitch, CHUNK, scratch + s.values, scratch + s.values_across)
    transpose(tag, breadth, p.pitch, CHUNK, scratch + s.dout, scratch + s.dout_across)
    transpose(tag, p.depth, p.depth, CHUNK, scratch + s.queries, scratch + s.queries_across)
    fill(tag, p.depth * CHUNK, scratch + s.d_keys, 0)
    fill(tag, p.depth * CHUNK, scratch + s.d_queries, 0)
    fill(tag, CHUNK * CHUNK, scratch + s.d_products, 0)


@compiled
def attend_backward(tag, p, s, log_decay, dlog_decay, indices, first, last, thread, scratch):
    """Compute the gradients of the tasks first..last-1; `p.y` is dy."""
    past, logs = _past(log_decay), np.zeros((p.block, 4, CHUNK), log_decay.dtype)
    sums = np.zeros((5, CHUNK), log_decay.dtype)
    state, out = scratch + s.state, scratch + s.out
    for task in range(first, last):
        item, group, block, first_head, n_heads = _heads(p, task)
        breadth, at = n_heads * p.width, first_head * p.p * p.size
        fill(tag, p.n * p.pitch, state, 0)
        for chunk in range((p.length + CHUNK - 1) // CHUNK - 1, -1, -1):
            start = chunk * CHUNK
            n_steps = min(CHUNK, p.length - start)
            _begin_backward(tag, p, s, indices, item, group, at, n_heads, start, n_steps, scratch)
            _prepare_logs(tag, p, indices, log_decay, item, first_head, n_heads, start, n_steps, logs)
            _move_state(tag, p, s, item, chunk, first_head, n_heads, False, scratch, scratch + s.before)
            fill(tag, n_steps * p.pitch, out, 0)
            add_product(tag, breadth, p.pitch, n_steps, p.n, scratch + s.keys, p.depth, 1, state, out)
            for head in range(n_heads):
                _head_backward(tag, p, s, past, logs[head].ctypes.data, head, n_steps, sums, scratch)
                _write_decays(
                    p, indices, logs[head], sums, item, first_head + head, start, n_steps, dlog_decay
                )
            add_product(
                tag, breadth, p.pitch, p.n, n_steps, scratch + s.queries, 1, p.depth, scratch + s.scaled,
                state
            )  # fmt: skip
            target = p.dvalues + item * p.length * p.channels * p.size + at
            _scatter(tag, p, indices, start, n_steps, n_heads, out, target, p.channels * p.size)
            _write_group(tag, p, s, indices, item, group, block, start, n_steps, scratch)


@compiled
def _write_group(tag, p, s, indices, item, group, block, start, n_steps, scratch):
    """Add to d_keys and d_queries what stays within the chunk, and write them."""
    transpose(tag, CHUNK, CHUNK, CHUNK, scratch + s.d_products, scratch + s.d_products_across)
    add_product(
        tag, CHUNK, CHUNK, p.n, n_steps, scratch + s.keys_across, CHUNK, 1, scratch + s.d_products_across,
        scratch + s.d_queries
    )  # fmt: skip
    add_product(
        tag, CHUNK, CHUNK, p.n, n_steps, scratch + s.queries_across, CHUNK, 1, scratch + s.d_products,
        scratch + s.d_keys
    )  # fmt: skip
    transpose(tag, CHUNK, CHUNK, p.depth, scratch + s.d_queries, scratch + s.queries)
    transpose(tag, CHUNK, CHUNK, p.depth, scratch + s.d_keys, scratch + s.keys)
    row = p.groups * p.n * p.size
    first_row = (block * p.batch + item) * p.length
    for k in range(n_steps):
        at = (first_row + token_at(p, indices, start + k)) * row + group * p.n * p.size
        move(tag, p.n, scratch + s.queries + k * p.depth * p.size, p.dqueries + at)
        move(tag, p.n, scratch + s.keys + k * p.depth * p.size, p.dkeys + at)
