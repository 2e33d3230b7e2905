"""Triton kernels of the causal depthwise convolution, with SiLU, in several directions, read and written in
place.

A program is one warp, which filters one segment of one direction with a channel in each lane: forwards or,
for the gradients, backwards. Values that several taps need stay in registers. Backward computes the sums
before SiLU again. Parameters and `reverse` are as in `triton_kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.triton_launch import run_time
from nnunet_mamba.ops.triton_math import only_if, put, read, sigmoid, step_rows


@triton.jit
def _start(length, channels, segments, segment_steps, WIDTH: tl.constexpr):
    """Return batch item, first step of the segment and the one after its last, channels and their mask."""
    item, segment = (tl.program_id(0) // segments).to(tl.int64), tl.program_id(0) % segments
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    begin = segment * segment_steps
    return item, begin, tl.minimum(begin + segment_steps, length), channel.to(tl.int64), channel < channels


@triton.jit
def _filter(
    weight_ptr, bias_ptr, direction, channels, channel, inside, TAPS: tl.constexpr, ACC: tl.constexpr
):
    """Load the weights of the taps, and the bias."""
    weights = ()
    for tap in tl.static_range(TAPS):
        at = weight_ptr + (direction * channels + channel) * TAPS + tap
        weights = weights + (tl.load(at, mask=inside, other=0).to(ACC),)
    bias = tl.zeros(channel.shape, ACC)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + direction * channels + channel, mask=inside, other=0).to(ACC)
    return weights, bias


@run_time
def conv_forward(
    x_ptr, weight_ptr, bias_ptr, indices_ptr, y_ptr,
    length, channels, batch, segments, segment_steps, reverse, x_direction, x_item, x_row,
    SILU: tl.constexpr, TAPS: tl.constexpr, UNROLL: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute y (directions, b, l, d)."""
    direction = tl.program_id(2).to(tl.int64)
    item, begin, end, channel, inside = _start(length, channels, segments, segment_steps, WIDTH)
    weights, bias = _filter(weight_ptr, bias_ptr, direction, channels, channel, inside, TAPS, ACC)
    x_at = x_ptr + direction * x_direction + item * x_item + channel
    y_at = y_ptr + (direction * batch + item) * length * channels + channel
    before = step_rows(indices_ptr, direction, begin - TAPS + 1, length, reverse, TAPS - 1, INDEX)
    found, past = read(x_at, x_row, before, inside, ACC), ()
    for i in tl.static_range(TAPS - 1):
        past = past + (tl.where(begin - TAPS + 1 + i >= 0, found[i], 0.0),)
    ahead = step_rows(indices_ptr, direction, begin, length, reverse, UNROLL, INDEX)
    for t in range(begin, end, UNROLL):
        rows = ahead
        ahead = step_rows(indices_ptr, direction, t + UNROLL, length, reverse, UNROLL, INDEX)
        values = past + read(x_at, x_row, rows, inside, ACC)
        for i in tl.static_range(UNROLL):
            out = bias
            for tap in tl.static_range(TAPS):
                out += weights[tap] * values[i + tap]
            if SILU:
                out *= sigmoid(out)
            put(y_at + rows[i] * channels, out, only_if(t + i < end, inside), False)
        past = ()
        for i in tl.static_range(TAPS - 1):
            past = past + (values[UNROLL + i],)


@run_time
def conv_backward(
    dy_ptr, x_ptr, weight_ptr, bias_ptr, indices_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    first, length, channels, batch, segments, segment_steps, reverse, x_direction, x_item, x_row,
    ADD: tl.constexpr, SILU: tl.constexpr, TAPS: tl.constexpr, UNROLL: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute dx (directions of the launch, b, l, d), added to memory if ADD, and each program's part of
    dweight (directions, programs, d, w) and dbias (directions, programs, d).

    A segment is processed from TAPS - 1 steps behind its end, whose gradients reach into it, to its begin.
    """
    direction = (first + tl.program_id(2)).to(tl.int64)
    item, begin, end, channel, inside = _start(length, channels, segments, segment_steps, WIDTH)
    weights, bias = _filter(weight_ptr, bias_ptr, direction, channels, channel, inside, TAPS, ACC)
    x_at = x_ptr + direction * x_direction + item * x_item + channel
    dy_at = dy_ptr + (direction * batch + item) * length * channels + channel
    dx_at = dx_ptr + (tl.program_id(2).to(tl.int64) * batch + item) * length * channels + channel
    dweights, later = (), ()  # sums over steps, by tap; gradients of the sums before SiLU, of steps behind
    for _ in tl.static_range(TAPS):
        dweights = dweights + (tl.zeros([WIDTH], ACC),)
    for _ in tl.static_range(TAPS - 1):
        later = later + (tl.zeros([WIDTH], ACC),)
    dbias = tl.zeros([WIDTH], ACC)
    tiles = tl.cdiv(end - begin + TAPS - 1, UNROLL)
    last = begin + (tiles - 1) * UNROLL
    ahead = step_rows(indices_ptr, direction, last - TAPS + 1, length, reverse, UNROLL + TAPS - 1, INDEX)
    for back in range(0, tiles):
        t = last - back * UNROLL
        rows = ahead
        ahead = step_rows(
            indices_ptr, direction, t - UNROLL - TAPS + 1, length, reverse, UNROLL + TAPS - 1, INDEX
        )
        found, values, own = read(x_at, x_row, rows, inside, ACC), (), ()
        for i in tl.static_range(UNROLL + TAPS - 1):
            values = values + (tl.where(t - TAPS + 1 + i >= 0, found[i], 0.0),)
        for i in tl.static_range(UNROLL):
            own = own + (rows[TAPS - 1 + i],)
        dys, grads = read(dy_at, channels, own, inside, ACC), ()
        for i in tl.static_range(UNROLL):
            grad = dys[i]
            if SILU:
                out = bias
                for tap in tl.static_range(TAPS):
                    out += weights[tap] * values[i + tap]
                s = sigmoid(out)
                grad *= s * (1.0 + out * (1.0 - s))
            grads = grads + (tl.where(t + i < length, grad, 0.0),)
            counted = tl.where(t + i < end, tl.where(t + i >= begin, grad, 0.0), 0.0)
            dbias += counted
            sums = ()
            for tap in tl.static_range(TAPS):
                sums = sums + (dweights[tap] + counted * values[i + tap],)
            dweights = sums
        grads = grads + later
        for i in tl.static_range(UNROLL):
            total = tl.zeros([WIDTH], ACC)
            for j in tl.static_range(TAPS):
                total += weights[TAPS - 1 - j] * grads[i + j]
            valid = only_if(t + i < end, only_if(t + i >= begin, inside))
            put(dx_at + own[i] * channels, total, valid, ADD)
        later = ()
        for i in tl.static_range(TAPS - 1):
            later = later + (grads[i],)
    place = (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * channels + channel
    tl.store(dbias_ptr + place, dbias, mask=inside)
    for tap in tl.static_range(TAPS):
        tl.store(dweight_ptr + place * TAPS + tap, dweights[tap], mask=inside)
