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
    values: int  # (CHUNK, width)
    scaled: int
    out: int
    state: int  # (block, n, width); in backward the gradient of the state after the chunk
    queries_across: int  # this and the rest for backward only
    values_across: int  # (width, CHUNK)
    dout: int  # (CHUNK, width)
    dout_across: int
    before: int  # (n, width): the state before the chunk
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
def _gather(tag, p, indices, start, n_steps, count, source, row_stride, width, target):
    """Copy `count` values of the rows of a chunk to a matrix (CHUNK, width), zeros after the last."""
    for k in range(n_steps):
        move(tag, count, source + token_at(p, indices, start + k) * row_stride, target + k * width * p.size)
    if n_steps < CHUNK:
        fill(tag, (CHUNK - n_steps) * width, target + n_steps * width * p.size, 0)


@compiled
def _scatter(tag, p, indices, start, n_steps, count, source, width, target, row_stride):
    """Copy `count` values of the rows of a matrix (CHUNK, width) to the rows of a chunk."""
    for k in range(n_steps):
        move(tag, count, source + k * width * p.size, target + token_at(p, indices, start + k) * row_stride)


@compiled
def _past(log_decay):
    """Return 1 for columns s <= t of each row t, else 0, (CHUNK, CHUNK), below a row of zeros."""
    past = np.zeros((CHUNK + 1, CHUNK), log_decay.dtype)
    for t in range(CHUNK):
        past[t + 1, : t + 1] = 1
    return past


@compiled
def _sum_logs(p, indices, log_decay, item, head, start, n_steps, logs):
    """Sum the base-2 logarithms of the decays up to each step; high and low parts in the first two rows."""
    total = 0.0
    for k in range(CHUNK):
        if k < n_steps:
            log = float(log_decay[item, token_at(p, indices, start + k), head])
            total += (FORGOTTEN if log < FORGOTTEN else log) * math.log2(math.e)
        logs[0, k] = total
        logs[1, k] = total - logs[0, k]


@compiled
def _prepare_group(tag, p, s, indices, item, group, start, n_steps, scratch):
    """Gather keys and queries of a chunk and compute their products."""
    source = p.keys + item * p.keys_batch + group * p.keys_group
    _gather(tag, p, indices, start, n_steps, p.n, source, p.keys_row, p.depth, scratch + s.keys)
    source = p.queries + item * p.queries_batch + group * p.queries_group
    _gather(tag, p, indices, start, n_steps, p.n, source, p.queries_row, p.depth, scratch + s.queries)
    transpose(tag, p.depth, CHUNK, scratch + s.keys, scratch + s.keys_across)
    fill(tag, CHUNK * CHUNK, scratch + s.products, 0)
    add_product(
        tag, CHUNK, n_steps, p.n, scratch + s.queries, p.depth, 1, scratch + s.keys_across,
        scratch + s.products
    )  # fmt: skip


@compiled
def _kept(p, item, chunk, head):
    """Return the address of the state before a chunk, from a head on."""
    chunks = (p.length + CHUNK - 1) // CHUNK
    return p.states + ((item * chunks + chunk) * p.n * p.channels + head * p.p) * p.size


@compiled
def _prepare_head(tag, p, s, indices, log_decay, past, logs, item, head, start, n_steps, scratch):
    """Gather values of a chunk; compute weights and the decays from its start and to its end (logs[2:])."""
    source = p.values + item * p.values_batch + head * p.p * p.size
    _gather(tag, p, indices, start, n_steps, p.p, source, p.values_row, p.width, scratch + s.values)
    _sum_logs(p, indices, log_decay, item, head, start, n_steps, logs)
    high, low, from_start, to_end = (
        logs[0].ctypes.data, logs[1].ctypes.data, logs[2].ctypes.data, logs[3].ctypes.data
    )  # fmt: skip
    decay_edges(tag, CHUNK, n_steps - 1, high, low, from_start, to_end)
    weigh(
        tag, CHUNK, n_steps, high, low, past[1:].ctypes.data, scratch + s.products, scratch + s.decays,
        scratch + s.weights
    )  # fmt: skip
    scale(tag, p.width, n_steps, to_end, 1, scratch + s.values, scratch + s.scaled)


@compiled
def attend_forward(tag, p, s, log_decay, indices, first, last, thread, scratch):
    """Compute y, and the states before the chunks, of the tasks first..last-1; log_decay (b, l, h)."""
    past, logs = _past(log_decay), np.zeros((4, CHUNK), log_decay.dtype)
    from_start, row = logs[2].ctypes.data, p.width * p.size
    for task in range(first, last):
        item, group, _, first_head, n_heads = _heads(p, task)
        fill(tag, n_heads * p.n * p.width, scratch + s.state, 0)
        for start in range(0, p.length, CHUNK):
            n_steps = min(CHUNK, p.length - start)
            _prepare_group(tag, p, s, indices, item, group, start, n_steps, scratch)
            for head in range(first_head, first_head + n_heads):
                state, out = scratch + s.state + (head - first_head) * p.n * row, scratch + s.out
                _prepare_head(tag, p, s, indices, log_decay, past, logs, item, head, start, n_steps, scratch)
                if p.states:
                    kept = _kept(p, item, start // CHUNK, head)
                    for j in range(p.n):
                        move(tag, p.p, state + j * row, kept + j * p.channels * p.size)
                fill(tag, n_steps * p.width, out, 0)
                add_product(tag, p.width, n_steps, p.n, scratch + s.queries, p.depth, 1, state, out)
                scale(tag, p.width, n_steps, from_start, 1, out, out)
                add_past(tag, p.width, n_steps, scratch + s.weights, CHUNK, 1, scratch + s.values, out)
                scale(tag, p.width, p.n, from_start + (n_steps - 1) * p.size, 0, state, state)
                add_product(
                    tag, p.width, p.n, n_steps, scratch + s.keys, 1, p.depth, scratch + s.scaled, state
                )
                target = p.y + item * p.y_batch + head * p.p * p.size
                _scatter(tag, p, indices, start, n_steps, p.p, out, p.width, target, p.y_row)


@compiled
def _gradients_of_state(tag, p, s, logs, item, chunk, head, n_steps, state, sums, scratch):
    """Add to d_keys and d_queries what passes a chunk's borders; sum it for log_decay in rows 2 to 4 of sums.

    `state` is the gradient of the state after the chunk; it becomes that of the state before.
    """
    before, through, row = scratch + s.before, scratch + s.through, p.width * p.size
    from_start, to_end = logs[2].ctypes.data, logs[3].ctypes.data
    kept = _kept(p, item, chunk, head)
    for j in range(p.n):
        move(tag, p.p, kept + j * p.channels * p.size, before + j * row)
    fill(tag, p.n * CHUNK, through, 0)
    add_product(tag, CHUNK, p.n, p.p, before, p.width, 1, scratch + s.dout_across, through)
    gather_edges(
        tag, CHUNK, p.n, from_start, through, scratch + s.queries_across, scratch + s.d_queries,
        sums[2].ctypes.data
    )  # fmt: skip
    fill(tag, p.n * CHUNK, through, 0)
    add_product(tag, CHUNK, p.n, p.p, state, p.width, 1, scratch + s.values_across, through)
    gather_edges(
        tag, CHUNK, p.n, to_end, through, scratch + s.keys_across, scratch + s.d_keys, sums[3].ctypes.data
    )
    dot(tag, p.n * p.width, before, state, sums[4].ctypes.data)
    scale(tag, p.width, n_steps, from_start, 1, scratch + s.dout, scratch + s.scaled)
    scale(tag, p.width, p.n, from_start + (n_steps - 1) * p.size, 0, state, state)
    add_product(tag, p.width, p.n, n_steps, scratch + s.queries, 1, p.depth, scratch + s.scaled, state)


@compiled
def _write_decays(p, indices, logs, sums, item, head, start, n_steps, dlog_decay):
    """Write the gradients of log_decay: at each step, the sum over all that passes it."""
    after, into = 0.0, float(sums[4, 0]) * float(logs[2, n_steps - 1])
    for k in range(n_steps - 1, -1, -1):
        after += float(sums[0, k]) - float(sums[1, k]) + float(sums[2, k])
        sums[0, k] = after
    for k in range(n_steps):
        dlog_decay[item, token_at(p, indices, start + k), head] = sums[0, k] + into
        into += float(sums[3, k])


@compiled
def attend_backward(tag, p, s, log_decay, dlog_decay, indices, first, last, thread, scratch):
    """Compute the gradients of the tasks first..last-1."""
    past, logs = _past(log_decay), np.zeros((4, CHUNK), log_decay.dtype)
    sums = np.zeros((5, CHUNK), log_decay.dtype)
    to_end, row = logs[3].ctypes.data, p.width * p.size
    for task in range(first, last):
        item, group, block, first_head, n_heads = _heads(p, task)
        fill(tag, n_heads * p.n * p.width, scratch + s.state, 0)
        for chunk in range((p.length + CHUNK - 1) // CHUNK - 1, -1, -1):
            start = chunk * CHUNK
            n_steps = min(CHUNK, p.length - start)
            _prepare_group(tag, p, s, indices, item, group, start, n_steps, scratch)
            transpose(tag, p.depth, CHUNK, scratch + s.queries, scratch + s.queries_across)
            fill(tag, p.depth * CHUNK, scratch + s.d_keys, 0)
            fill(tag, p.depth * CHUNK, scratch + s.d_queries, 0)
            fill(tag, CHUNK * CHUNK, scratch + s.d_products, 0)
            for head in range(first_head, first_head + n_heads):
                state, out = scratch + s.state + (head - first_head) * p.n * row, scratch + s.out
                _prepare_head(tag, p, s, indices, log_decay, past, logs, item, head, start, n_steps, scratch)
                source = p.y + item * p.y_batch + head * p.p * p.size
                _gather(tag, p, indices, start, n_steps, p.p, source, p.y_row, p.width, scratch + s.dout)
                transpose(tag, p.width, CHUNK, scratch + s.values, scratch + s.values_across)
                transpose(tag, p.width, CHUNK, scratch + s.dout, scratch + s.dout_across)
                fill(tag, n_steps * p.width, out, 0)
                add_product(tag, p.width, n_steps, p.n, scratch + s.keys, p.depth, 1, state, out)
                scale(tag, p.width, n_steps, to_end, 1, out, out)
                add_future(tag, p.width, n_steps, scratch + s.weights, 1, CHUNK, scratch + s.dout, out)
                target = p.dvalues + (item * p.length * p.channels + head * p.p) * p.size
                _scatter(tag, p, indices, start, n_steps, p.p, out, p.width, target, p.channels * p.size)
                fill(tag, n_steps * CHUNK, scratch + s.d_weights, 0)
                add_product(
                    tag, CHUNK, n_steps, p.p, scratch + s.dout, p.width, 1, scratch + s.values_across,
                    scratch + s.d_weights
                )  # fmt: skip
                fill(tag, CHUNK, sums[1].ctypes.data, 0)
                gather_pairs(
                    tag, CHUNK, n_steps, past.ctypes.data, scratch + s.products, scratch + s.decays,
                    scratch + s.d_weights, scratch + s.d_products, sums[0].ctypes.data, sums[1].ctypes.data
                )  # fmt: skip
                _gradients_of_state(tag, p, s, logs, item, chunk, head, n_steps, state, sums, scratch)
                _write_decays(p, indices, logs, sums, item, head, start, n_steps, dlog_decay)
            _write_group(tag, p, s, indices, item, group, block, start, n_steps, scratch)


@compiled
def _write_group(tag, p, s, indices, item, group, block, start, n_steps, scratch):
    """Add to d_keys and d_queries what stays within the chunk, and write them."""
    transpose(tag, CHUNK, CHUNK, scratch + s.d_products, scratch + s.d_products_across)
    add_product(
        tag, CHUNK, p.n, n_steps, scratch + s.keys_across, CHUNK, 1, scratch + s.d_products_across,
        scratch + s.d_queries
    )  # fmt: skip
    add_product(
        tag, CHUNK, p.n, n_steps, scratch + s.queries_across, CHUNK, 1, scratch + s.d_products,
        scratch + s.d_keys
    )  # fmt: skip
    row = p.groups * p.n * p.size
    part = ((block * p.batch + item) * p.length) * row + group * p.n * p.size
    transpose(tag, CHUNK, p.depth, scratch + s.d_queries, scratch + s.queries)
    _scatter(tag, p, indices, start, n_steps, p.n, scratch + s.queries, p.depth, p.dqueries + part, row)
    transpose(tag, CHUNK, p.depth, scratch + s.d_keys, scratch + s.keys)
    _scatter(tag, p, indices, start, n_steps, p.n, scratch + s.keys, p.depth, p.dkeys + part, row)
