"""Triton kernels of the selective scan: several directions over one volume, read and written in place.

A program is one warp, which scans one segment of one direction for WIDTH channels and N states. A tile (N,
WIDTH) has a channel in each lane and its states in the lane's registers: the recurrence and the sums over
states need no other lane, and rows of u are read in place.

Steps go by UNROLL at a time, whose loads come first: they do not wait for the recurrence; indices are loaded
one tile ahead. If there are several segments, each is scanned once from zero (`segment_ends`), the states at
their ends are passed on (`carry`), and it is scanned again (`forward`); likewise in backward
(`segment_gradients`, `carry`, `backward`). `forward` keeps the state before every CHUNK steps; `backward`
starts from there, scans the chunk, keeps the state before every UNROLL steps in scratch memory of its own,
and then goes back, with the states of UNROLL steps in registers.

Pointers come first, then integers, the same for all kernels, then constants. No integer and no alignment is
compiled in (`run_time`): a network's layers share their kernels. Strides are those of directions, batch
items, groups and rows; last axes are contiguous; rows of B and C are aligned, with zeros for states beyond n.
A piece is one direction's block of states; pieces are launched together, each with outputs of its own, or one
after the other, and add to the memory. No sum depends on the order in which programs run. Offsets of items
are int64, those within an item INDEX.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.triton_launch import run_time
from nnunet_mamba.ops.triton_math import (
    LOG2E,
    only_if,
    over_channels,
    over_states,
    put,
    read,
    sigmoid,
    softplus,
    step_rows,
)

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
CARRIED: tl.constexpr = tl.constexpr(8)  # segments whose ends `carry` loads at once


@triton.jit
def _coordinates(
    first, group_channels, channel_blocks, state_blocks, segments, N: tl.constexpr, WIDTH: tl.constexpr
):
    """Return direction, batch item, group, segment, channels and their mask (1, WIDTH), and states (N, 1)."""
    item_segment, block, piece = tl.program_id(0), tl.program_id(1), first + tl.program_id(2)
    direction, item = (piece // state_blocks).to(tl.int64), (item_segment // segments).to(tl.int64)
    group = (block // channel_blocks).to(tl.int64)
    channel = block % channel_blocks * WIDTH + tl.arange(0, WIDTH)[None, :]
    state = piece % state_blocks * N + tl.arange(0, N)[:, None]
    inside = channel < group_channels
    return direction, item, group, item_segment % segments, group * group_channels + channel, inside, state


@triton.jit
def _rates(A_ptr, direction, channel, state, channels, n, mask, ACC: tl.constexpr):
    """Load A log2(e) from an array (directions, d, n)."""
    return tl.load(A_ptr + (direction * channels + channel) * n + state, mask=mask, other=0).to(ACC) * LOG2E


@triton.jit
def _per_channel(ptr, direction, channels, channel, inside, ACC: tl.constexpr):
    """Load values (1, WIDTH) from an array (directions, d); zeros if there is none."""
    if ptr is None:
        value = tl.zeros(channel.shape, ACC)
    else:
        value = tl.load(ptr + direction * channels + channel, mask=inside, other=0).to(ACC)
    return value


@triton.jit
def _steps(at, stride, rows, bias, inside, left, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """Return step sizes of several rows and their slopes; zeros where none are left, so that nothing
    changes."""
    raws = read(at, stride, rows, inside, bias.dtype)
    steps, slopes = (), ()
    for i in tl.static_range(len(rows)):
        step = raws[i] + bias
        slope = tl.full(step.shape, 1.0, step.dtype)
        if SOFTPLUS:
            step, slope = softplus(step, TERMS)
        steps = steps + (tl.where(i < left, step, 0.0),)
        slopes = slopes + (tl.where(i < left, slope, 0.0),)
    return steps, slopes


@triton.jit
def _of_states(at, stride, rows, ACC: tl.constexpr):
    """Load values (N, 1) of several rows of B or C, each aligned to 16 bytes: few instructions read them."""
    values = ()
    for i in tl.static_range(len(rows)):
        row = tl.max_contiguous(tl.multiple_of(at + rows[i] * stride, (16, 1)), (16, 1))
        values = values + (tl.load(row).to(ACC),)
    return values


@triton.jit
def _gates(z_ptr, offset, stride, rows, inside, ACC: tl.constexpr):
    """Load z at several rows; without a gate, return a placeholder that nobody reads."""
    if z_ptr is None:
        values = rows
    else:
        values = read(z_ptr + offset, stride, rows, inside, ACC)
    return values


@run_time
def segment_ends(
    u_ptr, delta_ptr, A_ptr, B_ptr, bias_ptr, indices_ptr, ends_ptr, totals_ptr,
    first, length, channels, group_channels, groups, n, channel_blocks, state_blocks, batch, segments,
    segment_steps, reverse, u_direction, u_item, u_row, delta_direction, delta_item, delta_row, z_item, z_row,
    B_direction, B_item, B_group, B_row, C_direction, C_item, C_group, C_row,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the state at a segment's end if it is zero at its start to ends (pieces, b, segments, N, d), and
    the sum of its step sizes to totals (pieces, b, segments, d)."""
    direction, item, group, segment, channel, inside, state = _coordinates(
        first, group_channels, channel_blocks, state_blocks, segments, N, WIDTH
    )
    begin, end = segment * segment_steps, tl.minimum((segment + 1) * segment_steps, length)
    place = (tl.program_id(2) * batch + item) * segments + segment
    own = tl.arange(0, N)[:, None]
    known = state < n
    A = _rates(A_ptr, direction, channel, state, channels, n, inside & known, ACC)
    bias = _per_channel(bias_ptr, direction, channels, channel, inside, ACC)
    u_at = u_ptr + direction * u_direction + item * u_item + channel
    delta_at = delta_ptr + direction * delta_direction + item * delta_item + channel
    B_at = B_ptr + direction * B_direction + item * B_item + group * B_group + state
    h = tl.zeros([N, WIDTH], ACC)
    total = tl.zeros([1, WIDTH], ACC)
    ahead = step_rows(indices_ptr, direction, begin, length, reverse, UNROLL, INDEX)
    for t in range(begin, end, UNROLL):
        rows = ahead
        ahead = step_rows(indices_ptr, direction, t + UNROLL, length, reverse, UNROLL, INDEX)
        steps, _ = _steps(delta_at, delta_row, rows, bias, inside, end - t, SOFTPLUS, TERMS)
        us, Bs = read(u_at, u_row, rows, inside, ACC), _of_states(B_at, B_row, rows, ACC)
        for i in tl.static_range(UNROLL):
            h = tl.exp2(steps[i] * A) * h + (steps[i] * us[i]) * Bs[i]
            total += steps[i]
    tl.store(ends_ptr + (place * N + own) * channels + channel, h, mask=inside)
    tl.store(totals_ptr + place * channels + channel, total, mask=inside)


@run_time
def carry(
    ends_ptr, totals_ptr, A_ptr, first, channels, n, state_blocks, segments, blocks, from_end,
    N: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Turn the ends of segments into their starts, in place; from the last to the first if `from_end`.

    No barrier is needed since each value has one lane: BLOCK is 32 lanes per warp.
    """
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < N * channels
    item, piece = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    batch = tl.num_programs(0) // blocks
    direction, state_block = ((first + piece) // state_blocks).to(tl.int64), (first + piece) % state_blocks
    channel, state = at % channels, state_block * N + at // channels
    A_at = A_ptr + (direction * channels + channel) * n + state
    A = tl.load(A_at, mask=inside & (state < n), other=0).to(ACC) * LOG2E
    value = tl.zeros([BLOCK], ACC)
    for s in range(0, segments, CARRIED):
        ends, totals = (), ()
        for i in tl.static_range(CARRIED):
            segment = tl.minimum(s + i, segments - 1)
            segment = tl.where(from_end != 0, segments - 1 - segment, segment)
            place = (piece * batch + item) * segments + segment
            ends = ends + (tl.load(ends_ptr + place * N * channels + at, mask=inside, other=0),)
            totals = totals + (tl.load(totals_ptr + place * channels + channel, mask=inside, other=0),)
        for i in tl.static_range(CARRIED):
            segment = tl.where(from_end != 0, segments - 1 - s - i, s + i)
            place = (piece * batch + item) * segments + segment
            tl.store(ends_ptr + place * N * channels + at, value, mask=only_if(s + i < segments, inside))
            value = tl.exp2(totals[i] * A) * value + ends[i]


@run_time
def forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, indices_ptr, ends_ptr, states_ptr, y_ptr,
    keep, first, length, channels, group_channels, groups, n, channel_blocks, state_blocks, batch, segments,
    segment_steps, reverse, u_direction, u_item, u_row, delta_direction, delta_item, delta_row, z_item, z_row,
    B_direction, B_item, B_group, B_row, C_direction, C_item, C_group, C_row,
    ADD_Y: tl.constexpr,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute y (pieces or 1, b, l, d) and, if `keep`, write the states before every CHUNK steps to states
    (directions, b, chunks, n, d); start from the `ends` that `carry` leaves if there are several segments."""
    direction, item, group, segment, channel, inside, state = _coordinates(
        first, group_channels, channel_blocks, state_blocks, segments, N, WIDTH
    )
    begin, end = segment * segment_steps, tl.minimum((segment + 1) * segment_steps, length)
    place = (tl.program_id(2) * batch + item) * segments + segment
    own = tl.arange(0, N)[:, None]
    known = state < n
    A = _rates(A_ptr, direction, channel, state, channels, n, inside & known, ACC)
    bias = _per_channel(bias_ptr, direction, channels, channel, inside, ACC)
    state_block = (first + tl.program_id(2)) % state_blocks
    D = tl.where(state_block == 0, _per_channel(D_ptr, direction, channels, channel, inside, ACC), 0.0)
    u_at = u_ptr + direction * u_direction + item * u_item + channel
    delta_at = delta_ptr + direction * delta_direction + item * delta_item + channel
    B_at = B_ptr + direction * B_direction + item * B_item + group * B_group + state
    C_at = C_ptr + direction * C_direction + item * C_item + group * C_group + state
    y_at = y_ptr + (tl.program_id(2) * batch + item) * length * channels + channel
    several = only_if(segments > 1, inside)
    h = tl.load(ends_ptr + (place * N + own) * channels + channel, mask=several, other=0)
    chunks = tl.cdiv(length, CHUNK)
    ahead = step_rows(indices_ptr, direction, begin, length, reverse, UNROLL, INDEX)
    for start in range(begin, end, CHUNK):
        kept = ((direction * batch + item) * chunks + start // CHUNK) * n + state
        tl.store(states_ptr + kept * channels + channel, h, mask=only_if(keep != 0, inside & known))
        for t in range(start, tl.minimum(start + CHUNK, end), UNROLL):
            rows = ahead
            ahead = step_rows(indices_ptr, direction, t + UNROLL, length, reverse, UNROLL, INDEX)
            steps, _ = _steps(delta_at, delta_row, rows, bias, inside, end - t, SOFTPLUS, TERMS)
            us = read(u_at, u_row, rows, inside, ACC)
            gates = _gates(z_ptr, item * z_item + channel, z_row, rows, inside, ACC)
            Bs, Cs = _of_states(B_at, B_row, rows, ACC), _of_states(C_at, C_row, rows, ACC)
            for i in tl.static_range(UNROLL):
                h = tl.exp2(steps[i] * A) * h + (steps[i] * us[i]) * Bs[i]
                out = over_states(h * Cs[i]) + D * us[i]
                if z_ptr is not None:
                    out *= gates[i] * sigmoid(gates[i])
                put(y_at + rows[i] * channels, out, only_if(t + i < end, inside), ADD_Y)


@run_time
def segment_gradients(
    dy_ptr, delta_ptr, A_ptr, C_ptr, z_ptr, bias_ptr, indices_ptr, ends_ptr, totals_ptr,
    first, length, channels, group_channels, groups, n, channel_blocks, state_blocks, batch, segments,
    segment_steps, reverse, u_direction, u_item, u_row, delta_direction, delta_item, delta_row, z_item, z_row,
    B_direction, B_item, B_group, B_row, C_direction, C_item, C_group, C_row,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the state before a segment if no gradient reaches it from later, and the sum of
    its step sizes. Shapes as in `segment_ends`; dy (b, l, d)."""
    direction, item, group, segment, channel, inside, state = _coordinates(
        first, group_channels, channel_blocks, state_blocks, segments, N, WIDTH
    )
    begin, end = segment * segment_steps, tl.minimum((segment + 1) * segment_steps, length)
    place = (tl.program_id(2) * batch + item) * segments + segment
    own = tl.arange(0, N)[:, None]
    known = state < n
    A = _rates(A_ptr, direction, channel, state, channels, n, inside & known, ACC)
    bias = _per_channel(bias_ptr, direction, channels, channel, inside, ACC)
    delta_at = delta_ptr + direction * delta_direction + item * delta_item + channel
    C_at = C_ptr + direction * C_direction + item * C_item + group * C_group + state
    dy_at = dy_ptr + item * length * channels + channel
    dh = tl.zeros([N, WIDTH], ACC)
    total = tl.zeros([1, WIDTH], ACC)
    last = begin + (end - begin - 1) // UNROLL * UNROLL
    ahead = step_rows(indices_ptr, direction, last, length, reverse, UNROLL, INDEX)
    for back in range(0, end - begin, UNROLL):
        t = last - back
        rows = ahead
        ahead = step_rows(indices_ptr, direction, t - UNROLL, length, reverse, UNROLL, INDEX)
        steps, _ = _steps(delta_at, delta_row, rows, bias, inside, end - t, SOFTPLUS, TERMS)
        dys, gates = (
            read(dy_at, channels, rows, inside, ACC),
            _gates(z_ptr, item * z_item + channel, z_row, rows, inside, ACC),
        )
        Cs = _of_states(C_at, C_row, rows, ACC)
        for i in tl.static_range(UNROLL - 1, -1, -1):
            dout = tl.where(t + i < end, dys[i], 0.0)
            if z_ptr is not None:
                dout *= gates[i] * sigmoid(gates[i])
            dh = tl.exp2(steps[i] * A) * (dh + dout * Cs[i])
            total += steps[i]
    tl.store(ends_ptr + (place * N + own) * channels + channel, dh, mask=inside)
    tl.store(totals_ptr + place * channels + channel, total, mask=inside)


@run_time
def backward(
    dy_ptr, u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, indices_ptr, states_ptr, ends_ptr,
    scratch_ptr, du_ptr, ddelta_ptr, dz_ptr, dB_ptr, dC_ptr, dA_ptr, dD_ptr, dbias_ptr,
    first, length, channels, group_channels, groups, n, channel_blocks, state_blocks, batch, segments,
    segment_steps, reverse, u_direction, u_item, u_row, delta_direction, delta_item, delta_row, z_item, z_row,
    B_direction, B_item, B_group, B_row, C_direction, C_item, C_group, C_row,
    ADD_DU: tl.constexpr, ADD_DDELTA: tl.constexpr, ADD_DZ: tl.constexpr,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute all gradients: du, ddelta, dz (pieces or 1, b, l, d) and, for each direction of the launch, the
    parts of dB, dC (directions, blocks of channels, b, g, l, n), dA (directions, programs, d, n), dD
    (directions, programs, d) and dbias (directions, state blocks, programs, d)."""
    direction, item, group, segment, channel, inside, state = _coordinates(
        first, group_channels, channel_blocks, state_blocks, segments, N, WIDTH
    )
    begin, end = segment * segment_steps, tl.minimum((segment + 1) * segment_steps, length)
    place = (tl.program_id(2) * batch + item) * segments + segment
    own = tl.arange(0, N)[:, None]
    known = state < n
    A = _rates(A_ptr, direction, channel, state, channels, n, inside & known, ACC)
    bias = _per_channel(bias_ptr, direction, channels, channel, inside, ACC)
    state_block = (first + tl.program_id(2)) % state_blocks
    D = tl.where(state_block == 0, _per_channel(D_ptr, direction, channels, channel, inside, ACC), 0.0)
    u_at = u_ptr + direction * u_direction + item * u_item + channel
    delta_at = delta_ptr + direction * delta_direction + item * delta_item + channel
    B_at = B_ptr + direction * B_direction + item * B_item + group * B_group + state
    C_at = C_ptr + direction * C_direction + item * C_item + group * C_group + state
    dy_at = dy_ptr + item * length * channels + channel
    piece = tl.program_id(2).to(tl.int64)
    written = (piece * batch + item) * length * channels + channel  # of du, ddelta, dz
    slot = piece // state_blocks
    within = tl.program_id(1) % channel_blocks
    part = ((slot * channel_blocks + within) * batch + item) * groups + group
    lane = tl.arange(0, WIDTH)[None, :]
    own_state = state_block * N + lane * N // WIDTH  # of what `over_channels` leaves in a lane
    summing = (lane % (WIDTH // N) == 0) & (own_state < n)
    program = (piece * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    kept_at = scratch_ptr + program * (CHUNK // UNROLL * N * WIDTH) + own * WIDTH + lane
    several = only_if(segments > 1, inside)
    dh = tl.load(ends_ptr + (place * N + own) * channels + channel, mask=several, other=0)
    dA = tl.zeros([N, WIDTH], ACC)
    dD = tl.zeros([1, WIDTH], ACC)
    dbias = tl.zeros([1, WIDTH], ACC)
    chunks, n_chunks = tl.cdiv(length, CHUNK), tl.cdiv(end - begin, CHUNK)
    for chunk in range(0, n_chunks):
        start = begin + (n_chunks - 1 - chunk) * CHUNK
        tiles = tl.cdiv(tl.minimum(CHUNK, end - start), UNROLL)
        kept = ((direction * batch + item) * chunks + start // CHUNK) * n + state
        h = tl.load(states_ptr + kept * channels + channel, mask=inside & known, other=0)
        ahead = step_rows(indices_ptr, direction, start, length, reverse, UNROLL, INDEX)
        for tile in range(0, tiles - 1):
            tl.store(kept_at + tile * (N * WIDTH), h)
            t = start + tile * UNROLL
            rows = ahead
            ahead = step_rows(indices_ptr, direction, t + UNROLL, length, reverse, UNROLL, INDEX)
            steps, _ = _steps(delta_at, delta_row, rows, bias, inside, end - t, SOFTPLUS, TERMS)
            us, Bs = read(u_at, u_row, rows, inside, ACC), _of_states(B_at, B_row, rows, ACC)
            for i in tl.static_range(UNROLL):
                h = tl.exp2(steps[i] * A) * h + (steps[i] * us[i]) * Bs[i]
        tl.store(kept_at + (tiles - 1) * (N * WIDTH), h)
        tl.debug_barrier()
        for back in range(0, tiles):
            tile = tiles - 1 - back
            t = start + tile * UNROLL
            rows = ahead
            ahead = step_rows(indices_ptr, direction, t - UNROLL, length, reverse, UNROLL, INDEX)
            h = tl.load(kept_at + tile * (N * WIDTH))
            steps, slopes = _steps(delta_at, delta_row, rows, bias, inside, end - t, SOFTPLUS, TERMS)
            us, dys = read(u_at, u_row, rows, inside, ACC), read(dy_at, channels, rows, inside, ACC)
            Bs, Cs = _of_states(B_at, B_row, rows, ACC), _of_states(C_at, C_row, rows, ACC)
            gates = _gates(z_ptr, item * z_item + channel, z_row, rows, inside, ACC)
            hs, decays = (h,), ()
            for i in tl.static_range(UNROLL):
                decays = decays + (tl.exp2(steps[i] * A),)
                hs = hs + (decays[i] * hs[i] + (steps[i] * us[i]) * Bs[i],)
            for i in tl.static_range(UNROLL - 1, -1, -1):
                valid = only_if(t + i < end, inside)
                dout = tl.where(t + i < end, dys[i], 0.0)
                at = written + rows[i] * channels
                if z_ptr is not None:
                    s = sigmoid(gates[i])
                    out = over_states(hs[i + 1] * Cs[i]) + D * us[i]
                    slope_of_gate = s * (1.0 + gates[i] * (1.0 - s))
                    put(dz_ptr + at, dout * out * slope_of_gate, valid, ADD_DZ)
                    dout *= gates[i] * s
                grad = dh + dout * Cs[i]
                through_u = over_states(grad * Bs[i])
                of_states = (part * length + rows[i]) * n + own_state
                within_end = only_if(t + i < end, summing)
                tl.store(dC_ptr + of_states, over_channels(dout * hs[i + 1]), mask=within_end)
                tl.store(dB_ptr + of_states, over_channels(grad * (steps[i] * us[i])), mask=within_end)
                dh = grad * decays[i]
                d_exponent = dh * hs[i]
                dA += d_exponent * steps[i]
                d_step = (through_u * us[i] + LN2 * over_states(d_exponent * A)) * slopes[i]
                put(du_ptr + at, through_u * steps[i] + D * dout, valid, ADD_DU)
                put(ddelta_ptr + at, d_step, valid, ADD_DDELTA)
                dD += dout * us[i]
                dbias += d_step
        tl.debug_barrier()
    programs = tl.num_programs(0)
    own_program = slot * programs + tl.program_id(0)
    tl.store(dA_ptr + (own_program * channels + channel) * n + state, dA, mask=inside & known)
    tl.store(dD_ptr + own_program * channels + channel, dD, mask=only_if(state_block == 0, inside))
    tl.store(dbias_ptr + (piece * programs + tl.program_id(0)) * channels + channel, dbias, mask=inside)
