"""Triton kernels of linear attention with decay: several directions over one volume, read and written in
place.

A sequence is cut into chunks of CHUNK steps. Inside a chunk all is matrix products [1, sec. 6]; between chunks
there is a state, a matrix (n, p) for each head:

    chunk_states    what a chunk's own steps add to the state at its end
    carry_states    from there, the state before each chunk
    outputs         y from the chunk's steps and the state before it

The gradient of the values is the same run backwards (BACKWARD): dy stands for the values, keys and queries
change places, and the states are gradients of the states at the chunks' ends. `key_gradients` computes the
other gradients from both kinds of states.

A factor is exp(sum) with the sum of just those logarithms of decays that lie between two steps, and not of a
difference of two cumulative sums: no digits are lost where a step forgets all, and no argument is positive.

Pointers come first, then integers, the same for all kernels, then constants. No integer and no alignment is
compiled in (`run_time`). Strides are those of directions, batch items, rows and groups; last axes are
contiguous. P and N are blocks of p and n; where a block reaches beyond, it reads zeros. No sum depends on the
order in which programs run. Offsets of items and chunks are int64, those within an item INDEX.

[1] Dao and Gu, Transformers are SSMs, arXiv:2405.21060.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.triton_launch import run_time
from nnunet_mamba.ops.triton_math import only_if, put, step_rows

CARRIED: tl.constexpr = tl.constexpr(8)  # chunks whose states `carry_states` loads at once


@triton.jit
def _product(a, b, ACC: tl.constexpr):
    """Return the matrix product a b, summed in ACC, as exactly as sums of that type are.

    Half precision has no more digits than TF32; float32 takes three products of TF32 ("tf32x3": errors of
    2^-21), which tensor cores compute faster than other units compute one of float32.
    """
    if ACC == tl.float64:
        c = tl.dot(a.to(ACC), b.to(ACC), input_precision="ieee", out_dtype=ACC)
    elif a.dtype.primitive_bitwidth == 16 and b.dtype.primitive_bitwidth == 16:
        c = tl.dot(a.to(ACC), b.to(ACC), input_precision="tf32")
    else:
        c = tl.dot(a.to(ACC), b.to(ACC), input_precision="tf32x3")
    return c


@triton.jit
def _own_chunk(first, chunks):
    """Return direction and batch item, int64, and chunk of this program."""
    direction, item = first + tl.program_id(2), tl.program_id(0) // chunks
    return direction.to(tl.int64), item.to(tl.int64), tl.program_id(0) % chunks


@triton.jit
def _own_rows(
    indices_ptr, direction, chunk, length, reverse, CHUNK: tl.constexpr, INDEX: tl.constexpr
):  # fmt: skip
    """Return the rows of memory of a chunk's steps, and which of them there are, (CHUNK,) each."""
    steps = chunk * CHUNK + tl.arange(0, CHUNK)
    return step_rows(indices_ptr, direction, steps, length, reverse, 1, INDEX)[0], steps < length


@triton.jit
def _tile(at, rows, stride, columns, present, width):
    """Load (rows, columns) of a matrix with `width` columns; zeros where there are none."""
    inside = present[:, None] & (columns < width)[None, :]
    return tl.load(at + rows[:, None] * stride + columns[None, :], mask=inside, other=0)


@triton.jit
def _between(log_decay, CHUNK: tl.constexpr):
    """Return, for each step t (row) and s (column), the logarithm of the decay of t if t > s, else 0."""
    steps = tl.arange(0, CHUNK)
    return tl.where(steps[:, None] > steps[None, :], log_decay[:, None], 0.0)


@triton.jit
def _from_start(log_decay):
    """Return the decay from the start of the chunk to each step, that of the step included."""
    return tl.exp(tl.cumsum(log_decay, 0))


@triton.jit
def _to_end(log_decay, CHUNK: tl.constexpr):
    """Return the decay from each step to the end of the chunk, that of the step excluded."""
    return tl.exp(tl.sum(_between(log_decay, CHUNK), 0))


@triton.jit
def _decays(log_decay, CHUNK: tl.constexpr):
    """Return the decay from step s (column) to step t (row), 0 where t < s: (CHUNK, CHUNK)."""
    steps = tl.arange(0, CHUNK)
    decays = tl.exp(tl.cumsum(_between(log_decay, CHUNK), 0))
    return tl.where(steps[:, None] >= steps[None, :], decays, 0.0)


@run_time
def chunk_states(
    values_ptr, log_decay_ptr, keys_ptr, indices_ptr, states_ptr, totals_ptr,
    first, length, chunks, heads, groups, p, n, p_blocks, n_blocks, shares, batch, reverse,
    values_direction, values_item, values_row, decay_direction, decay_item, decay_row,
    keys_direction, keys_item, keys_row, keys_group, queries_direction, queries_item, queries_row,
    queries_group,
    BACKWARD: tl.constexpr, CHUNK: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Write the state at a chunk's end if it is zero at its start to states (directions, b, chunks, n, h p),
    and the decay of the whole chunk to totals (directions, b, chunks, h)."""
    direction, item, chunk = _own_chunk(first, chunks)
    head, block = tl.program_id(1) // (p_blocks * n_blocks), tl.program_id(1) % (p_blocks * n_blocks)
    column = block // n_blocks * P + tl.arange(0, P)
    state = block % n_blocks * N + tl.arange(0, N)
    rows, present = _own_rows(indices_ptr, direction, chunk, length, reverse, CHUNK, INDEX)
    decay_at = log_decay_ptr + direction * decay_direction + item * decay_item + head
    values_at = values_ptr + direction * values_direction + item * values_item + head * p
    keys_at = keys_ptr + direction * keys_direction + item * keys_item + head * groups // heads * keys_group
    log_decay = tl.load(decay_at + rows * decay_row, mask=present, other=0).to(ACC)
    values = _tile(values_at, rows, values_row, column, present, p).to(ACC)
    keys = _tile(keys_at, rows, keys_row, state, present, n)
    if BACKWARD:
        values *= _from_start(log_decay)[:, None]
    else:
        values *= _to_end(log_decay, CHUNK)[:, None]
    own = _product(tl.trans(keys), values, ACC)
    place = (direction * batch + item) * chunks + chunk
    states_at = states_ptr + place * n * heads * p + head * p
    inside = (state < n)[:, None] & (column < p)[None, :]
    tl.store(states_at + state[:, None] * (heads * p) + column[None, :], own, mask=inside)
    tl.store(totals_ptr + place * heads + head, tl.exp(tl.sum(log_decay, 0)), mask=block == 0)


@run_time
def carry_states(
    states_ptr, totals_ptr, chunks, heads, p, n, batch, blocks, from_end, BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Turn what chunks add to the states into the states before them, in place; from the last to the first
    if `from_end`.

    No barrier is needed since each value has one lane: BLOCK is 32 lanes per warp.
    """
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < n * heads * p
    head = at % (heads * p) // p
    begin = (tl.program_id(1).to(tl.int64) * batch + tl.program_id(0) // blocks) * chunks
    value = tl.zeros([BLOCK], ACC)
    for c in range(0, chunks, CARRIED):
        added, totals = (), ()
        for i in tl.static_range(CARRIED):
            chunk = tl.minimum(c + i, chunks - 1)
            place = begin + tl.where(from_end != 0, chunks - 1 - chunk, chunk)
            added = added + (tl.load(states_ptr + place * n * heads * p + at, mask=inside, other=0),)
            totals = totals + (tl.load(totals_ptr + place * heads + head, mask=inside, other=0),)
        for i in tl.static_range(CARRIED):
            place = begin + tl.where(from_end != 0, chunks - 1 - c - i, c + i)
            within = only_if(c + i < chunks, inside)
            tl.store(states_ptr + place * n * heads * p + at, value, mask=within)
            value = totals[i] * value + added[i]


@run_time
def outputs(
    values_ptr, log_decay_ptr, keys_ptr, queries_ptr, indices_ptr, states_ptr, y_ptr,
    first, length, chunks, heads, groups, p, n, p_blocks, n_blocks, shares, batch, reverse,
    values_direction, values_item, values_row, decay_direction, decay_item, decay_row,
    keys_direction, keys_item, keys_row, keys_group, queries_direction, queries_item, queries_row,
    queries_group,
    ADD: tl.constexpr,
    BACKWARD: tl.constexpr, CHUNK: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Compute y (directions of the launch, b, l, h p), or add to it if ADD."""
    direction, item, chunk = _own_chunk(first, chunks)
    head, block = tl.program_id(1) // p_blocks, tl.program_id(1) % p_blocks
    group = head * groups // heads
    column, own = block * P + tl.arange(0, P), tl.arange(0, N)
    rows, present = _own_rows(indices_ptr, direction, chunk, length, reverse, CHUNK, INDEX)
    decay_at = log_decay_ptr + direction * decay_direction + item * decay_item + head
    values_at = values_ptr + direction * values_direction + item * values_item + head * p
    keys_at = keys_ptr + direction * keys_direction + item * keys_item + group * keys_group
    queries_at = queries_ptr + direction * queries_direction + item * queries_item + group * queries_group
    states_at = states_ptr + ((direction * batch + item) * chunks + chunk) * n * heads * p + head * p
    y = tl.zeros([CHUNK, P], ACC)
    scores = tl.zeros([CHUNK, CHUNK], ACC)  # of the step that reads (row) and the one that is read
    for begin in range(0, n, N):
        state = begin + own
        queries = _tile(queries_at, rows, queries_row, state, present, n)
        keys = _tile(keys_at, rows, keys_row, state, present, n)
        before = _tile(states_at, state, heads * p, column, state < n, p)
        scores += _product(queries, tl.trans(keys), ACC)
        y += _product(queries, before, ACC)
    log_decay = tl.load(decay_at + rows * decay_row, mask=present, other=0).to(ACC)
    values = _tile(values_at, rows, values_row, column, present, p)
    if BACKWARD:
        y *= _to_end(log_decay, CHUNK)[:, None]
        scores *= tl.trans(_decays(log_decay, CHUNK))
    else:
        y *= _from_start(log_decay)[:, None]
        scores *= _decays(log_decay, CHUNK)
    y += _product(scores, values, ACC)
    y_at = y_ptr + (tl.program_id(2).to(tl.int64) * batch + item) * length * heads * p + head * p
    inside = present[:, None] & (column < p)[None, :]
    put(y_at + rows[:, None] * (heads * p) + column[None, :], y, inside, ADD)


@run_time
def key_gradients(
    dy_ptr, values_ptr, log_decay_ptr, keys_ptr, queries_ptr, indices_ptr, states_ptr, ends_ptr,
    dlog_decay_ptr, dkeys_ptr, dqueries_ptr,
    first, length, chunks, heads, groups, p, n, p_blocks, n_blocks, shares, batch, reverse,
    values_direction, values_item, values_row, decay_direction, decay_item, decay_row,
    keys_direction, keys_item, keys_row, keys_group, queries_direction, queries_item, queries_row,
    queries_group,
    CHUNK: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Compute parts of the gradients for a block of n: dlog_decay (directions, blocks of n, b, l, h); and for
    a share of a group's heads dkeys, dqueries (directions, shares, b, l, g, n).

    `states` are those before the chunks, `ends` the gradients of the states at their ends, dy (b, l, h p).
    """
    direction, item, chunk = _own_chunk(first, chunks)
    group, block = tl.program_id(1) // (shares * n_blocks), tl.program_id(1) % n_blocks
    share = tl.program_id(1) // n_blocks % shares
    steps, own, state = tl.arange(0, CHUNK), tl.arange(0, P), block * N + tl.arange(0, N)
    rows, present = _own_rows(indices_ptr, direction, chunk, length, reverse, CHUNK, INDEX)
    decay_at = log_decay_ptr + direction * decay_direction + item * decay_item
    values_at = values_ptr + direction * values_direction + item * values_item
    dy_at = dy_ptr + item * length * heads * p
    keys_at = keys_ptr + direction * keys_direction + item * keys_item + group * keys_group
    queries_at = queries_ptr + direction * queries_direction + item * queries_item + group * queries_group
    place = ((direction * batch + item) * chunks + chunk) * n * heads * p
    dlog_decay_at = dlog_decay_ptr + ((direction * n_blocks + block) * batch + item) * length * heads
    keys = _tile(keys_at, rows, keys_row, state, present, n)
    queries = _tile(queries_at, rows, queries_row, state, present, n)
    scores = _product(queries, tl.trans(keys), ACC)
    dkeys = tl.zeros([CHUNK, N], ACC)
    dqueries = tl.zeros([CHUNK, N], ACC)
    of_group = heads // groups
    begin, end = share * of_group // shares, (share + 1) * of_group // shares
    for head in range(group * of_group + begin, group * of_group + end):
        log_decay = tl.load(decay_at + rows * decay_row + head, mask=present, other=0).to(ACC)
        dscores = tl.zeros([CHUNK, CHUNK], ACC)
        through_states = tl.zeros([CHUNK, N], ACC)  # the gradient of the queries
        through_ends = tl.zeros([CHUNK, N], ACC)  # of the keys
        kept = tl.zeros([P], ACC)
        for of_block in range(0, p, P):
            column = of_block + own
            values = _tile(values_at + head * p, rows, values_row, column, present, p)
            dy = _tile(dy_at + head * p, rows, heads * p, column, present, p)
            before = _tile(states_ptr + place + head * p, state, heads * p, column, state < n, p)
            after = _tile(ends_ptr + place + head * p, state, heads * p, column, state < n, p)
            dscores += _product(dy, tl.trans(values), ACC)
            through_states += _product(dy, tl.trans(before), ACC)
            through_ends += _product(values, tl.trans(after), ACC)
            kept += tl.sum(before * after, 0)
        dscores *= _decays(log_decay, CHUNK)
        through_states *= _from_start(log_decay)[:, None]
        through_ends *= _to_end(log_decay, CHUNK)[:, None]
        dqueries += through_states + _product(dscores, keys, ACC)
        dkeys += through_ends + _product(tl.trans(dscores), queries, ACC)
        # each step's decay lies between all earlier steps, and the start, and all later ones, and the end
        to_later = tl.cumsum(dscores * scores, 0, reverse=True)
        to_later += tl.sum(through_ends * keys, 1)[None, :]
        dlog_decay = tl.sum(tl.where(steps[:, None] > steps[None, :], to_later, 0.0), 1)
        dlog_decay += tl.cumsum(tl.sum(through_states * queries, 1), 0, reverse=True)
        dlog_decay += tl.exp(tl.sum(log_decay, 0)) * tl.sum(kept, 0)
        tl.store(dlog_decay_at + rows * heads + head, dlog_decay, mask=present)
    inside = present[:, None] & (state < n)[None, :]
    part = ((direction * shares + share) * batch + item) * length * groups * n + group * n
    written = part + rows[:, None] * (groups * n) + state[None, :]
    tl.store(dkeys_ptr + written, dkeys, mask=inside)
    tl.store(dqueries_ptr + written, dqueries, mask=inside)
