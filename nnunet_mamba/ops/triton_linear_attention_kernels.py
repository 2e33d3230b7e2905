"""Triton kernels of linear attention with decay: several directions over one volume, read and written in
place.

A sequence is cut into chunks of CHUNK steps. Inside a chunk all is matrix products [1, sec. 6]; between
chunks there is a state, a matrix (n, p) for each head:

    chunk_states        what a chunk's own steps add to the state at its end
    carry_states        from there, the state before each chunk
    outputs             y from the chunk's steps and the state before it
    decay_gradients     gradient of the decays

`outputs` computes the other gradients, too. That of the values is the same run backwards (BACKWARD): dy
stands for the values, keys and queries change places, and the states are gradients of the states at the
chunks' ends. Those of the queries and keys have keys and queries for values, and contract over p in place of
n: `width` is the axis of the results, `inner` the one that is contracted, `unit` a head or, with sums over
its heads, a group.

A factor is exp(sum) with the sum of just those logarithms of decays that lie between two steps, and not of a
difference of two cumulative sums: no digits are lost where a step forgets all, and no argument is positive.

Pointers come first, then integers, the same for all kernels, then constants. No integer and no alignment is
compiled in (`run_time`). Strides are those of directions, batch items, rows and heads or groups; last axes
are contiguous. S is a block of a chunk's steps, P and N, or WIDTH and INNER, of the other axes; where a block
reaches beyond, it reads zeros. No sum depends on the order in which programs run. Offsets of items and chunks
are int64, those within an item INDEX.

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
def _rows(indices_ptr, direction, steps, length, reverse, INDEX: tl.constexpr):
    """Return the rows of memory of a block of steps."""
    return step_rows(indices_ptr, direction, steps, length, reverse, 1, INDEX)[0]


@triton.jit
def _tile(at, rows, stride, columns, present, width):
    """Load (rows, columns) of a matrix with `width` columns; zeros where there are none."""
    inside = present[:, None] & (columns < width)[None, :]
    return tl.load(at + rows[:, None] * stride + columns[None, :], mask=inside, other=0)


@triton.jit
def _log_decays(
    at, stride, indices_ptr, direction, chunk, length, reverse, NEXT: tl.constexpr, CHUNK: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Load log_decay of a chunk's steps or, if NEXT, of those that follow them in the chunk; zeros where
    there are none."""
    own = tl.arange(0, CHUNK) + NEXT
    steps = chunk * CHUNK + own
    rows = _rows(indices_ptr, direction, steps, length, reverse, INDEX)
    return tl.load(at + rows * stride, mask=(own < CHUNK) & (steps < length), other=0).to(ACC)


@triton.jit
def _decays(log_decays, begin, BACKWARD: tl.constexpr, CHUNK: tl.constexpr, S: tl.constexpr):
    """Return decays (CHUNK, S) between the steps of a chunk (rows) and S earlier ones, from `begin` on; if
    BACKWARD, S later ones, by the log_decay of next steps. 0 where steps are not in that order."""
    row, column = tl.arange(0, CHUNK)[:, None], begin + tl.arange(0, S)[None, :]
    if BACKWARD:
        between, ordered = row < column, row <= column
    else:
        between, ordered = row > column, row >= column
    sums = tl.cumsum(tl.where(between, log_decays[:, None], 0.0), 0, reverse=BACKWARD)
    return tl.where(ordered, tl.exp(sums), 0.0)


@run_time
def chunk_states(
    values_ptr, log_decay_ptr, keys_ptr, indices_ptr, states_ptr, totals_ptr,
    length, chunks, heads, group_heads, p, n, n_blocks, batch, reverse,
    values_direction, values_item, values_row, decay_direction, decay_item, decay_row,
    keys_direction, keys_item, keys_row, keys_unit,
    BACKWARD: tl.constexpr, CHUNK: tl.constexpr, S: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Write the state at a chunk's end if it is zero at its start to states (directions, b, chunks, n, h p),
    and the decay of the whole chunk to totals (directions, b, chunks, h)."""
    direction, item, chunk = _own_chunk(0, chunks)
    p_blocks = tl.cdiv(p, P)
    head, block = tl.program_id(1) // (p_blocks * n_blocks), tl.program_id(1) % (p_blocks * n_blocks)
    column = block // n_blocks * P + tl.arange(0, P)
    state = block % n_blocks * N + tl.arange(0, N)
    decay_at = log_decay_ptr + direction * decay_direction + item * decay_item + head
    values_at = values_ptr + direction * values_direction + item * values_item + head * p
    keys_at = keys_ptr + direction * keys_direction + item * keys_item + head // group_heads * keys_unit
    log_decays = _log_decays(
        decay_at, decay_row, indices_ptr, direction, chunk, length, reverse, 0, CHUNK, ACC, INDEX
    )
    own = tl.zeros([N, P], ACC)
    position = tl.arange(0, CHUNK)
    for begin in range(0, CHUNK, S):
        place = begin + tl.arange(0, S)
        steps = chunk * CHUNK + place
        rows, present = _rows(indices_ptr, direction, steps, length, reverse, INDEX), steps < length
        values = _tile(values_at, rows, values_row, column, present, p).to(ACC)
        keys = _tile(keys_at, rows, keys_row, state, present, n)
        if BACKWARD:  # from the start of the chunk
            counted = position[:, None] <= place[None, :]
        else:  # to its end
            counted = position[:, None] > place[None, :]
        decays = tl.exp(tl.sum(tl.where(counted, log_decays[:, None], 0.0), 0))
        own += _product(tl.trans(keys), values * decays[:, None], ACC)
    chunk_at = (direction * batch + item) * chunks + chunk
    states_at = states_ptr + chunk_at * n * heads * p + head * p
    inside = (state < n)[:, None] & (column < p)[None, :]
    tl.store(states_at + state[:, None] * (heads * p) + column[None, :], own, mask=inside)
    tl.store(totals_ptr + chunk_at * heads + head, tl.exp(tl.sum(log_decays, 0)), mask=block == 0)


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
    first, length, chunks, heads, units, unit_heads, group_heads, shares, width, inner, width_blocks, batch,
    reverse, values_direction, values_item, values_row, values_unit, decay_direction, decay_item, decay_row,
    keys_direction, keys_item, keys_row, keys_unit, queries_direction, queries_item, queries_row,
    queries_unit, states_chunk, states_head, states_inner, states_width,
    ADD: tl.constexpr, BACKWARD: tl.constexpr, CHUNK: tl.constexpr, S: tl.constexpr, WIDTH: tl.constexpr,
    INNER: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Compute y (directions of the launch, shares, b, l, units, width), or add to it if ADD: for each unit,
    the sum over a share of its heads."""
    direction, item, chunk = _own_chunk(first, chunks)
    part, block = tl.program_id(1) // width_blocks, tl.program_id(1) % width_blocks
    unit, share = part // shares, part % shares
    column, own, place = block * WIDTH + tl.arange(0, WIDTH), tl.arange(0, INNER), tl.arange(0, CHUNK)
    steps = chunk * CHUNK + place
    rows, present = _rows(indices_ptr, direction, steps, length, reverse, INDEX), steps < length
    decay_at = log_decay_ptr + direction * decay_direction + item * decay_item
    values_at = values_ptr + direction * values_direction + item * values_item + unit * values_unit
    keys_of_item = keys_ptr + direction * keys_direction + item * keys_item
    queries_of_item = queries_ptr + direction * queries_direction + item * queries_item
    states_of_chunk = states_ptr + ((direction * batch + item) * chunks + chunk) * states_chunk
    y = tl.zeros([CHUNK, WIDTH], ACC)
    begin, end = share * unit_heads // shares, (share + 1) * unit_heads // shares
    for head in range(unit * unit_heads + begin, unit * unit_heads + end):
        keys_at = keys_of_item + head // group_heads * keys_unit
        queries_at = queries_of_item + head // group_heads * queries_unit
        states_at = states_of_chunk + head * states_head
        log_decays = _log_decays(
            decay_at + head, decay_row, indices_ptr, direction, chunk, length, reverse, BACKWARD, CHUNK, ACC,
            INDEX,
        )  # fmt: skip
        from_state = tl.zeros([CHUNK, WIDTH], ACC)
        for i in range(0, inner, INNER):
            queries = _tile(queries_at, rows, queries_row, i + own, present, inner)
            inside = (i + own < inner)[:, None] & (column < width)[None, :]
            states = states_at + (i + own)[:, None] * states_inner + column[None, :] * states_width
            from_state += _product(queries, tl.load(states, mask=inside, other=0), ACC)
        y += from_state * tl.exp(tl.cumsum(log_decays, 0, reverse=BACKWARD))[:, None]
        for s in range(0, CHUNK, S):
            read = chunk * CHUNK + s + tl.arange(0, S)
            read_rows, exist = _rows(indices_ptr, direction, read, length, reverse, INDEX), read < length
            scores = tl.zeros([CHUNK, S], ACC)
            for i in range(0, inner, INNER):
                queries = _tile(queries_at, rows, queries_row, i + own, present, inner)
                keys = _tile(keys_at, read_rows, keys_row, i + own, exist, inner)
                scores += _product(queries, tl.trans(keys), ACC)
            scores *= _decays(log_decays, s, BACKWARD, CHUNK, S)
            y += _product(scores, _tile(values_at, read_rows, values_row, column, exist, width), ACC)
    slot = (tl.program_id(2).to(tl.int64) * shares + share) * batch + item
    y_at = y_ptr + slot * length * units * width + unit * width
    inside = present[:, None] & (column < width)[None, :]
    put(y_at + rows[:, None] * (units * width) + column[None, :], y, inside, ADD)


@run_time
def decay_gradients(
    dy_ptr, values_ptr, log_decay_ptr, keys_ptr, queries_ptr, indices_ptr, states_ptr, ends_ptr,
    dlog_decay_ptr,
    length, chunks, heads, group_heads, p, n, batch, reverse,
    values_direction, values_item, values_row, decay_direction, decay_item, decay_row,
    keys_direction, keys_item, keys_row, keys_unit, queries_direction, queries_item, queries_row,
    queries_unit,
    CHUNK: tl.constexpr, S: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Compute dlog_decay (directions, b, l, h). `states` are those before the chunks, `ends` the gradients of
    the states at their ends, dy (b, l, h p).

    The decay of a step lies between all earlier steps, and the start, and all later ones, itself included,
    and the end.
    """
    direction, item, chunk = _own_chunk(0, chunks)
    head = tl.program_id(1)
    place, own_p, own_n = tl.arange(0, CHUNK), tl.arange(0, P), tl.arange(0, N)
    steps = chunk * CHUNK + place
    rows, present = _rows(indices_ptr, direction, steps, length, reverse, INDEX), steps < length
    decay_at = log_decay_ptr + direction * decay_direction + item * decay_item + head
    values_at = values_ptr + direction * values_direction + item * values_item + head * p
    dy_at, dy_row = dy_ptr + item * length * heads * p + head * p, heads * p
    group = head // group_heads
    keys_at = keys_ptr + direction * keys_direction + item * keys_item + group * keys_unit
    queries_at = queries_ptr + direction * queries_direction + item * queries_item + group * queries_unit
    states_at = ((direction * batch + item) * chunks + chunk) * n * heads * p + head * p
    log_decays = _log_decays(
        decay_at, decay_row, indices_ptr, direction, chunk, length, reverse, 0, CHUNK, ACC, INDEX
    )
    dlog_decay = tl.zeros([CHUNK], ACC)
    for s in range(0, CHUNK, S):
        read = chunk * CHUNK + s + tl.arange(0, S)
        read_rows, exist = _rows(indices_ptr, direction, read, length, reverse, INDEX), read < length
        scores, dscores = tl.zeros([CHUNK, S], ACC), tl.zeros([CHUNK, S], ACC)
        for i in range(0, n, N):
            queries = _tile(queries_at, rows, queries_row, i + own_n, present, n)
            keys = _tile(keys_at, read_rows, keys_row, i + own_n, exist, n)
            scores += _product(queries, tl.trans(keys), ACC)
        for i in range(0, p, P):
            dy = _tile(dy_at, rows, dy_row, i + own_p, present, p)
            values = _tile(values_at, read_rows, values_row, i + own_p, exist, p)
            dscores += _product(dy, tl.trans(values), ACC)
        scores *= dscores * _decays(log_decays, s, False, CHUNK, S)
        to_later = tl.cumsum(scores, 0, reverse=True)
        earlier = place[:, None] > s + tl.arange(0, S)[None, :]
        dlog_decay += tl.sum(tl.where(earlier, to_later, 0.0), 1)
    from_start = tl.zeros([CHUNK], ACC)
    to_end = tl.zeros([CHUNK], ACC)
    through = tl.zeros([P], ACC)
    for i in range(0, p, P):
        from_state, to_gradient = tl.zeros([CHUNK, P], ACC), tl.zeros([CHUNK, P], ACC)
        for j in range(0, n, N):
            before = _tile(states_ptr + states_at, j + own_n, heads * p, i + own_p, j + own_n < n, p)
            after = _tile(ends_ptr + states_at, j + own_n, heads * p, i + own_p, j + own_n < n, p)
            from_state += _product(_tile(queries_at, rows, queries_row, j + own_n, present, n), before, ACC)
            to_gradient += _product(_tile(keys_at, rows, keys_row, j + own_n, present, n), after, ACC)
            through += tl.sum(before * after, 0)
        from_start += tl.sum(from_state * _tile(dy_at, rows, dy_row, i + own_p, present, p), 1)
        to_end += tl.sum(to_gradient * _tile(values_at, rows, values_row, i + own_p, present, p), 1)
    later = place[:, None] > place[None, :]
    dlog_decay += tl.cumsum(from_start * tl.exp(tl.cumsum(log_decays, 0)), 0, reverse=True)
    to_end *= tl.exp(tl.sum(tl.where(later, log_decays[:, None], 0.0), 0))
    dlog_decay += tl.sum(tl.where(later, to_end[None, :], 0.0), 1)
    dlog_decay += tl.exp(tl.sum(log_decays, 0)) * tl.sum(through, 0)
    written = dlog_decay_ptr + (direction * batch + item) * length * heads + head
    tl.store(written + rows * heads, dlog_decay, mask=present)
