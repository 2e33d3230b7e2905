"""Triton kernels of the selective scan: several walks over one volume, read and written in place.

A program is one warp, which walks one segment of one walk for WIDTH channels and N states. A tile (N, WIDTH)
has a channel in each lane and its states in the lane's registers: the recurrence and the sums over states
need no other lane, and rows of u are read as they lie.

Steps go by UNROLL at a time, whose loads come first: they do not wait for the recurrence. Where segments are
several, each is walked once from zero (`segment_ends`), the states at their ends are passed on (`carry`), and
it is walked again (`forward`); so too backwards (`segment_gradients`, `carry`, `backward`). `forward` keeps
the state before every CHUNK steps; `backward` starts from there, walks the chunk, keeps the state before
every UNROLL steps in a scratch of its own, and then goes back, with the states of UNROLL steps in registers.

A sequence is a tuple (pointer, stride of walks, of batch items, of rows), last axis contiguous; B and C have
a stride of groups before that of rows. A piece is one walk's block of states; pieces are launched together,
each with outputs of its own, or one after the other, and add to what is there. No sum depends on the order in
which programs run. Offsets of items are int64, those within an item INDEX.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from nnunet_mamba.ops.triton_math import over_channels, over_states, sigmoid, softplus

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
CARRIED: tl.constexpr = tl.constexpr(8)  # segments whose ends `carry` loads at once


class Sizes(NamedTuple):
    """What all kernels of a call are told in integers."""

    length: int
    channels: int  # of all groups
    group: int  # channels per group
    groups: int
    n: int
    channel_blocks: int  # per group
    state_blocks: int
    batch: int
    segments: int
    segment: int  # steps per segment, a multiple of CHUNK
    reverse: int  # bit k: walk k goes from the last step to the first


@triton.jit
def _coordinates(sizes, first, N: tl.constexpr, WIDTH: tl.constexpr):
    """Walk, block of states, batch item, segment, group; channels and their mask (1, WIDTH); states within
    the block (N, 1)."""
    item_segment, block, piece = tl.program_id(0), tl.program_id(1), first + tl.program_id(2)
    walk, state_block = piece // sizes.state_blocks, piece % sizes.state_blocks
    item, segment = item_segment // sizes.segments, item_segment % sizes.segments
    group, within = block // sizes.channel_blocks, block % sizes.channel_blocks
    channel = within * WIDTH + tl.arange(0, WIDTH)[None, :]
    state = tl.arange(0, N)[:, None]
    inside = channel < sizes.group
    channel = (group * sizes.group + channel).to(tl.int64)
    walk, item, group = walk.to(tl.int64), item.to(tl.int64), group.to(tl.int64)
    return walk, state_block, item, segment, group, channel, inside, state


@triton.jit
def _if(condition, mask):
    """The mask, where a condition on scalars holds (not `&`: the interpreter makes an integer of it)."""
    return tl.where(condition, mask, False)


@triton.jit
def _start(sequence, walk, item):
    return sequence[0] + walk * sequence[1] + item * sequence[2]


@triton.jit
def _rates(A_ptr, sizes, walk, state_block, state, channel, inside, N: tl.constexpr):
    """A log2(e) (N, WIDTH), of an array (walks, state blocks, N, d)."""
    at = ((walk * sizes.state_blocks + state_block) * N + state) * sizes.channels + channel
    return tl.load(A_ptr + at, mask=inside, other=0)


@triton.jit
def _per_channel(ptr, sizes, walk, channel, inside, ACC: tl.constexpr):
    """Values (1, WIDTH) of an array (walks, d); zeros where there is none."""
    if ptr is None:
        value = tl.zeros(channel.shape, ACC)
    else:
        value = tl.load(ptr + walk * sizes.channels + channel, mask=inside, other=0).to(ACC)
    return value


@triton.jit
def _visits(rows_ptr, sizes, walk, t, UNROLL: tl.constexpr, INDEX: tl.constexpr):
    """The rows of memory that steps t, t + 1, ... of the walk visit; past the end, the last one's. INDEX is
    an integer that can count the values of an item."""
    rows = ()
    for i in tl.static_range(UNROLL):
        visit = tl.minimum(t + i, sizes.length - 1)
        visit = tl.where((sizes.reverse >> walk) & 1 != 0, sizes.length - 1 - visit, visit)
        if rows_ptr is None:
            rows = rows + (visit.to(INDEX),)
        else:
            rows = rows + (tl.load(rows_ptr + walk * sizes.length + visit).to(INDEX),)
    return rows


@triton.jit
def _read(at, stride, rows, mask, ACC: tl.constexpr):
    """Values of several rows."""
    values = ()
    for i in tl.static_range(len(rows)):
        values = values + (tl.load(at + rows[i] * stride, mask=mask, other=0).to(ACC),)
    return values


@triton.jit
def _steps(at, stride, rows, bias, inside, left, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """Step sizes of several rows and their slopes; zeros where none are left, so that nothing changes."""
    raws = _read(at, stride, rows, inside, bias.dtype)
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
def _gates(z, channel, walk, item, rows, inside, ACC: tl.constexpr):
    """Values of z at several rows; where there is no gate, a placeholder that nobody reads."""
    if z[0] is None:
        values = rows
    else:
        values = _read(_start(z, walk, item) + channel, z[3], rows, inside, ACC)
    return values


@triton.jit
def _put(ptr, value, mask, ADD: tl.constexpr):
    """Store, or add to what is there."""
    if ADD:
        value += tl.load(ptr, mask=mask, other=0).to(value.dtype)
    tl.store(ptr, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _segment(sizes, segment, item):
    """First step of a segment, the step after its last; its place in arrays (pieces, b, segments, ...)."""
    begin = segment * sizes.segment
    place = (tl.program_id(2) * sizes.batch + item) * sizes.segments + segment
    return begin, tl.minimum(begin + sizes.segment, sizes.length), place


@triton.jit(do_not_specialize=["first"])
def segment_ends(
    u, delta, A_ptr, B, bias_ptr, rows_ptr, ends_ptr, totals_ptr, sizes, first,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The state at a segment's end if it is zero at its start -> ends (pieces, b, segments, N, d), and the
    sum of its step sizes -> totals (pieces, b, segments, d)."""
    walk, state_block, item, segment, group, channel, inside, state = _coordinates(sizes, first, N, WIDTH)
    begin, end, place = _segment(sizes, segment, item)
    known = state_block * N + state < sizes.n
    A = _rates(A_ptr, sizes, walk, state_block, state, channel, inside, N)
    bias = _per_channel(bias_ptr, sizes, walk, channel, inside, ACC)
    u_at, delta_at = _start(u, walk, item) + channel, _start(delta, walk, item) + channel
    B_at = _start(B, walk, item) + group * B[3] + state_block * N + state
    h = tl.zeros([N, WIDTH], ACC)
    total = tl.zeros([1, WIDTH], ACC)
    for t in range(begin, end, UNROLL):
        rows = _visits(rows_ptr, sizes, walk, t, UNROLL, INDEX)
        steps, _ = _steps(delta_at, delta[3], rows, bias, inside, end - t, SOFTPLUS, TERMS)
        us, Bs = _read(u_at, u[3], rows, inside, ACC), _read(B_at, B[4], rows, known, ACC)
        for i in tl.static_range(UNROLL):
            h = tl.exp2(steps[i] * A) * h + (steps[i] * us[i]) * Bs[i]
            total += steps[i]
    tl.store(ends_ptr + (place * N + state) * sizes.channels + channel, h, mask=inside)
    tl.store(totals_ptr + place * sizes.channels + channel, total, mask=inside)


@triton.jit(do_not_specialize=["first"])
def carry(
    ends_ptr, totals_ptr, A_ptr, sizes, first,
    BACKWARDS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Ends of segments -> what each begins with, in place; from the last to the first if BACKWARDS. In place
    without a barrier since each value has one lane: BLOCK is 32 lanes per warp."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N * sizes.channels
    item, piece = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    A = tl.load(A_ptr + (first + piece) * N * sizes.channels + at, mask=inside, other=0)
    state = tl.zeros([BLOCK], ACC)
    for s in range(0, sizes.segments, CARRIED):
        ends, totals = (), ()
        for i in tl.static_range(CARRIED):
            segment = tl.minimum(s + i, sizes.segments - 1)
            place = (piece * sizes.batch + item) * sizes.segments
            place += sizes.segments - 1 - segment if BACKWARDS else segment
            ends = ends + (tl.load(ends_ptr + place * N * sizes.channels + at, mask=inside, other=0),)
            total_at = totals_ptr + place * sizes.channels + at % sizes.channels
            totals = totals + (tl.load(total_at, mask=inside, other=0),)
        for i in tl.static_range(CARRIED):
            segment = s + i
            place = (piece * sizes.batch + item) * sizes.segments
            place += sizes.segments - 1 - segment if BACKWARDS else segment
            mask = _if(segment < sizes.segments, inside)
            tl.store(ends_ptr + place * N * sizes.channels + at, state, mask=mask)
            state = tl.exp2(totals[i] * A) * state + ends[i]


@triton.jit(do_not_specialize=["first"])
def forward(
    u, delta, A_ptr, B, C, D_ptr, z, bias_ptr, rows_ptr, starts_ptr, states_ptr, y, sizes, first,
    Y_ADD: tl.constexpr,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """y, and where they are wanted the states before every CHUNK steps -> states (walks, b, chunks, n, d)."""
    walk, state_block, item, segment, group, channel, inside, state = _coordinates(sizes, first, N, WIDTH)
    begin, end, place = _segment(sizes, segment, item)
    known = state_block * N + state < sizes.n
    A = _rates(A_ptr, sizes, walk, state_block, state, channel, inside, N)
    bias = _per_channel(bias_ptr, sizes, walk, channel, inside, ACC)
    D = tl.where(state_block == 0, _per_channel(D_ptr, sizes, walk, channel, inside, ACC), 0.0)
    u_at, delta_at = _start(u, walk, item) + channel, _start(delta, walk, item) + channel
    B_at = _start(B, walk, item) + group * B[3] + state_block * N + state
    C_at = _start(C, walk, item) + group * C[3] + state_block * N + state
    y_at = _start(y, tl.program_id(2).to(tl.int64), item) + channel
    h = tl.zeros([N, WIDTH], ACC)
    if starts_ptr is not None:
        h = tl.load(starts_ptr + (place * N + state) * sizes.channels + channel, mask=inside, other=0)
    chunks = tl.cdiv(sizes.length, CHUNK)
    for start in range(begin, end, CHUNK):
        if states_ptr is not None:
            kept = ((walk * sizes.batch + item) * chunks + start // CHUNK) * sizes.n + state_block * N + state
            tl.store(states_ptr + kept * sizes.channels + channel, h, mask=inside & known)
        for t in range(start, tl.minimum(start + CHUNK, end), UNROLL):
            rows = _visits(rows_ptr, sizes, walk, t, UNROLL, INDEX)
            steps, _ = _steps(delta_at, delta[3], rows, bias, inside, end - t, SOFTPLUS, TERMS)
            us = _read(u_at, u[3], rows, inside, ACC)
            gates = _gates(z, channel, walk, item, rows, inside, ACC)
            Bs, Cs = _read(B_at, B[4], rows, known, ACC), _read(C_at, C[4], rows, known, ACC)
            for i in tl.static_range(UNROLL):
                h = tl.exp2(steps[i] * A) * h + (steps[i] * us[i]) * Bs[i]
                out = over_states(h * Cs[i]) + D * us[i]
                if z[0] is not None:
                    out *= gates[i] * sigmoid(gates[i])
                _put(y_at + rows[i] * y[3], out, _if(t + i < end, inside), Y_ADD)


@triton.jit(do_not_specialize=["first"])
def segment_gradients(
    dy, delta, A_ptr, C, z, bias_ptr, rows_ptr, ends_ptr, totals_ptr, sizes, first,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """What a segment sends to the state before it, if nothing reaches it from later; and the sum of its step
    sizes. Shapes as in `segment_ends`."""
    walk, state_block, item, segment, group, channel, inside, state = _coordinates(sizes, first, N, WIDTH)
    begin, end, place = _segment(sizes, segment, item)
    known = state_block * N + state < sizes.n
    A = _rates(A_ptr, sizes, walk, state_block, state, channel, inside, N)
    bias = _per_channel(bias_ptr, sizes, walk, channel, inside, ACC)
    delta_at, dy_at = _start(delta, walk, item) + channel, _start(dy, walk, item) + channel
    C_at = _start(C, walk, item) + group * C[3] + state_block * N + state
    dh = tl.zeros([N, WIDTH], ACC)
    total = tl.zeros([1, WIDTH], ACC)
    tiles = tl.cdiv(end - begin, UNROLL)
    for tile in range(0, tiles):
        t = begin + (tiles - 1 - tile) * UNROLL
        rows = _visits(rows_ptr, sizes, walk, t, UNROLL, INDEX)
        steps, _ = _steps(delta_at, delta[3], rows, bias, inside, end - t, SOFTPLUS, TERMS)
        dys, gates = _read(dy_at, dy[3], rows, inside, ACC), _gates(z, channel, walk, item, rows, inside, ACC)
        Cs = _read(C_at, C[4], rows, known, ACC)
        for i in tl.static_range(UNROLL - 1, -1, -1):
            dout = tl.where(t + i < end, dys[i], 0.0)
            if z[0] is not None:
                dout *= gates[i] * sigmoid(gates[i])
            dh = tl.exp2(steps[i] * A) * (dh + dout * Cs[i])
            total += steps[i]
    tl.store(ends_ptr + (place * N + state) * sizes.channels + channel, dh, mask=inside)
    tl.store(totals_ptr + place * sizes.channels + channel, total, mask=inside)


@triton.jit(do_not_specialize=["first"])
def backward(
    dy, u, delta, A_ptr, B, C, D_ptr, z, bias_ptr, rows_ptr, states_ptr, later_ptr, scratch_ptr,
    du, ddelta, dz, dB_ptr, dC_ptr, dA_ptr, dD_ptr, dbias_ptr, sizes, first,
    DU_ADD: tl.constexpr, DDELTA_ADD: tl.constexpr, DZ_ADD: tl.constexpr,
    SOFTPLUS: tl.constexpr, TERMS: tl.constexpr, UNROLL: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """All gradients. du, ddelta, dz are sequences; dB, dC (pieces, channel blocks, b, g, l, N); dA (pieces,
    b, segments, N, d); dD, dbias (pieces, b, segments, d)."""
    walk, state_block, item, segment, group, channel, inside, state = _coordinates(sizes, first, N, WIDTH)
    begin, end, place = _segment(sizes, segment, item)
    known = state_block * N + state < sizes.n
    A = _rates(A_ptr, sizes, walk, state_block, state, channel, inside, N)
    bias = _per_channel(bias_ptr, sizes, walk, channel, inside, ACC)
    D = tl.where(state_block == 0, _per_channel(D_ptr, sizes, walk, channel, inside, ACC), 0.0)
    u_at, delta_at = _start(u, walk, item) + channel, _start(delta, walk, item) + channel
    dy_at = _start(dy, walk, item) + channel
    B_at = _start(B, walk, item) + group * B[3] + state_block * N + state
    C_at = _start(C, walk, item) + group * C[3] + state_block * N + state
    piece = tl.program_id(2).to(tl.int64)
    du_at, ddelta_at = _start(du, piece, item) + channel, _start(ddelta, piece, item) + channel
    within = tl.program_id(1) % sizes.channel_blocks
    part = ((piece * sizes.channel_blocks + within) * sizes.batch + item) * sizes.groups + group
    program = (piece * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    lane = tl.arange(0, WIDTH)[None, :]
    kept_at = scratch_ptr + program * (CHUNK // UNROLL * N * WIDTH) + state * WIDTH + lane
    dh = tl.zeros([N, WIDTH], ACC)
    if later_ptr is not None:
        dh = tl.load(later_ptr + (place * N + state) * sizes.channels + channel, mask=inside, other=0)
    dA = tl.zeros([N, WIDTH], ACC)
    dD = tl.zeros([1, WIDTH], ACC)
    dbias = tl.zeros([1, WIDTH], ACC)
    chunks, n_chunks = tl.cdiv(sizes.length, CHUNK), tl.cdiv(end - begin, CHUNK)
    for chunk in range(0, n_chunks):
        start = begin + (n_chunks - 1 - chunk) * CHUNK
        tiles = tl.cdiv(tl.minimum(CHUNK, end - start), UNROLL)
        kept = ((walk * sizes.batch + item) * chunks + start // CHUNK) * sizes.n + state_block * N + state
        h = tl.load(states_ptr + kept * sizes.channels + channel, mask=inside & known, other=0)
        for tile in range(0, tiles - 1):
            tl.store(kept_at + tile * (N * WIDTH), h)
            t = start + tile * UNROLL
            rows = _visits(rows_ptr, sizes, walk, t, UNROLL, INDEX)
            steps, _ = _steps(delta_at, delta[3], rows, bias, inside, end - t, SOFTPLUS, TERMS)
            us, Bs = _read(u_at, u[3], rows, inside, ACC), _read(B_at, B[4], rows, known, ACC)
            for i in tl.static_range(UNROLL):
                h = tl.exp2(steps[i] * A) * h + (steps[i] * us[i]) * Bs[i]
        tl.store(kept_at + (tiles - 1) * (N * WIDTH), h)
        tl.debug_barrier()
        for back in range(0, tiles):
            tile = tiles - 1 - back
            t = start + tile * UNROLL
            h = tl.load(kept_at + tile * (N * WIDTH))
            rows = _visits(rows_ptr, sizes, walk, t, UNROLL, INDEX)
            steps, slopes = _steps(delta_at, delta[3], rows, bias, inside, end - t, SOFTPLUS, TERMS)
            us, dys = _read(u_at, u[3], rows, inside, ACC), _read(dy_at, dy[3], rows, inside, ACC)
            Bs, Cs = _read(B_at, B[4], rows, known, ACC), _read(C_at, C[4], rows, known, ACC)
            gates = _gates(z, channel, walk, item, rows, inside, ACC)
            hs, decays = (h,), ()
            for i in tl.static_range(UNROLL):
                decays = decays + (tl.exp2(steps[i] * A),)
                hs = hs + (decays[i] * hs[i] + (steps[i] * us[i]) * Bs[i],)
            for i in tl.static_range(UNROLL - 1, -1, -1):
                valid = _if(t + i < end, inside)
                dout = tl.where(t + i < end, dys[i], 0.0)
                if z[0] is not None:
                    s = sigmoid(gates[i])
                    out = over_states(hs[i + 1] * Cs[i]) + D * us[i]
                    slope_of_gate = s * (1.0 + gates[i] * (1.0 - s))
                    dz_at = _start(dz, piece, item) + channel + rows[i] * dz[3]
                    _put(dz_at, dout * out * slope_of_gate, valid, DZ_ADD)
                    dout *= gates[i] * s
                grad = dh + dout * Cs[i]
                through_u = over_states(grad * Bs[i])
                place_B = (part * sizes.length + rows[i]) * N + lane * N // WIDTH
                of_states = _if(t + i < end, lane % (WIDTH // N) == 0)
                tl.store(dC_ptr + place_B, over_channels(dout * hs[i + 1]), mask=of_states)
                tl.store(dB_ptr + place_B, over_channels(grad * (steps[i] * us[i])), mask=of_states)
                dh = grad * decays[i]
                d_exponent = dh * hs[i]
                dA += d_exponent * steps[i]
                d_step = (through_u * us[i] + LN2 * over_states(d_exponent * A)) * slopes[i]
                _put(du_at + rows[i] * du[3], through_u * steps[i] + D * dout, valid, DU_ADD)
                _put(ddelta_at + rows[i] * ddelta[3], d_step, valid, DDELTA_ADD)
                dD += dout * us[i]
                dbias += d_step
        tl.debug_barrier()
    tl.store(dA_ptr + (place * N + state) * sizes.channels + channel, dA, mask=inside)
    tl.store(dD_ptr + place * sizes.channels + channel, dD, mask=inside)
    tl.store(dbias_ptr + place * sizes.channels + channel, dbias, mask=inside)
