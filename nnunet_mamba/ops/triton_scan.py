"""The selective scan on NVIDIA GPUs: how a call is cut into programs of `triton_kernels`, and their launches.

Shapes: k walks, b batch, l tokens, d channels, g groups, n states; u (k or 1, b, l, d); delta (k, b, l, d);
A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d); z, y (b, l, d); rows (k, l); `reverse`, one bool per walk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops import triton_kernels as kernels

CHUNK = 32  # steps between the states that forward keeps: 4 n / 32 bytes per token and channel
FORWARD_UNROLL, BACKWARD_UNROLL = 4, 2
WIDTH = 32  # channels of a program: the lanes of a warp
MOST_STATES = 16  # of a program, in each lane's registers
SHORTEST = 128  # steps: shorter segments are not worth the second walk
PROGRAMS_PER_PROCESSOR = 8
CARRY_BLOCK = 64
NO_SEQUENCE = (None, 0, 0, 0)
NO_OUTPUT = (NO_SEQUENCE, 0)


class _Call:
    """One call: its sequences as the kernels want them, and its cut into pieces, blocks and segments."""

    def __init__(self, u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: Sequence[bool]):
        self.walks, self.batch, self.length, self.channels = delta.shape
        self.groups, self.n = B.shape[2], A.shape[2]
        self.u, self.dtype = u, torch.float64 if u.dtype == torch.float64 else torch.float32
        self.block = min(MOST_STATES, triton.next_power_of_2(self.n))
        self.state_blocks = -(-self.n // self.block)
        self.pieces = self.walks * self.state_blocks
        group = self.channels // self.groups
        self.channel_blocks = -(-group // WIDTH)
        per_piece = self.batch * self.groups * self.channel_blocks
        wanted = processors(u.device) * PROGRAMS_PER_PROCESSOR
        # one after the other where a piece can fill the device by itself: no outputs of its own to be added
        self.together = self.pieces > 1 and per_piece * self.length < wanted * SHORTEST
        programs = per_piece * (self.pieces if self.together else 1)
        steps = max(SHORTEST, -(-self.length * programs // wanted))
        segment = -(-steps // CHUNK) * CHUNK
        self.segments = -(-self.length // segment)
        self.sizes = kernels.Sizes(
            self.length,
            self.channels,
            group,
            self.groups,
            self.n,
            self.channel_blocks,
            self.state_blocks,
            self.batch,
            self.segments,
            segment,
            sum(1 << walk for walk, backwards in enumerate(reverse) if backwards),
        )
        self.grid = (self.batch * self.segments, self.groups * self.channel_blocks)
        padding = (0, self.state_blocks * self.block - self.n)
        rates = F.pad(A.detach().to(self.dtype) * math.log2(math.e), padding)
        self.A = rates.transpose(1, 2).contiguous()  # (k, state blocks * states, d)
        self.D, self.bias, self.rows = D, bias, rows
        self.sequences = {
            "u": sequence(u),
            "delta": sequence(delta),
            "B": sequence(B),
            "C": sequence(C),
            "z": NO_SEQUENCE if z is None else sequence(z[None]),
        }
        self.options = {
            "SOFTPLUS": softplus,
            "TERMS": 17 if self.dtype == torch.float64 else 8,
            "ACC": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "N": self.block,
            "WIDTH": WIDTH,
            "num_warps": 1,
            "enable_fp_fusion": True,
        }

    def launches(self) -> Iterator[tuple[int, int]]:
        """First piece and number of pieces of each launch."""
        if self.together:
            yield 0, self.pieces
        else:
            yield from ((piece, 1) for piece in range(self.pieces))

    def walk_of(self, piece: int) -> int:
        return piece // self.state_blocks

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.u.device)

    def ends(self, count: int) -> tuple[Tensor, Tensor]:
        shape = (count, self.batch, self.segments)
        return self.empty(*shape, self.block, self.channels), self.empty(*shape, self.channels)

    def carry(self, ends: Tensor, totals: Tensor, first: int, backwards: bool) -> None:
        n_states = self.block
        grid = (-(-n_states * self.channels // CARRY_BLOCK), self.batch, len(ends))
        options = {"num_warps": 2, "enable_fp_fusion": True}
        kernels.carry[grid](
            ends, totals, self.A, self.sizes, first,
            BACKWARDS=backwards, N=n_states, BLOCK=CARRY_BLOCK, ACC=self.options["ACC"], **options,
        )  # fmt: skip


class _Output:
    """A tensor that pieces add up to: one slot per piece if they run together, else one per `slot_of`.

    Sums are in the dtype of the call's sums; where nothing is added, in the dtype of the result.
    """

    def __init__(self, call: _Call, shape: tuple[int, ...], dtype: torch.dtype, slots: int):
        self.call, self.slots = call, slots
        self.added = call.pieces > slots
        n_slots = call.pieces if call.together else slots
        self.data = torch.empty(
            (n_slots, *shape), dtype=call.dtype if self.added else dtype, device=call.u.device
        )

    def slot(self, piece: int) -> int:
        return piece * self.slots // self.call.pieces

    def argument(self, first: int) -> tuple[tuple[Any, ...], int]:
        """The sequence that a launch writes to, and whether it adds to what is there."""
        if self.call.together:
            return sequence(self.data), 0
        slot = self.slot(first)
        again = first > 0 and self.slot(first - 1) == slot
        return sequence(self.data[slot : slot + 1]), int(again)

    def result(self) -> Tensor:
        """(slots, *shape)"""
        if self.call.together and self.added:
            return self.data.unflatten(0, (self.slots, -1)).sum(1)
        return self.data


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; the interpreter's CPU counts as a small one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def sequence(tensor: Tensor) -> tuple[Any, ...]:
    """The tensor, last axis contiguous, with its strides but the last; 0 for a first axis that is shared."""
    tensor = tensor.detach()
    tensor = tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()
    first, *strides = tensor.stride()[:-1]
    return tensor, 0 if len(tensor) == 1 else first, *strides


def chunk_count(length: int) -> int:
    return -(-length // CHUNK)


def forward(
    u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """-> y (b, l, d) in u's dtype and, if `keep`, the states before each chunk (k, b, chunks, n, d)."""
    call = _Call(u, delta, A, B, C, D, z, bias, rows, softplus, reverse)
    y = _Output(call, (call.batch, call.length, call.channels), u.dtype, slots=1)
    shape = (call.walks, call.batch, chunk_count(call.length), call.n, call.channels) if keep else (0,)
    states = call.empty(*shape)
    s = call.sequences
    for first, count in call.launches():
        grid = (*call.grid, count)
        starts = None
        if call.segments > 1:
            starts, totals = call.ends(count)
            kernels.segment_ends[grid](
                s["u"], s["delta"], call.A, s["B"], call.bias, call.rows, starts, totals, call.sizes, first,
                UNROLL=FORWARD_UNROLL, **call.options,
            )  # fmt: skip
            call.carry(starts, totals, first, backwards=False)
        y_to, y_add = y.argument(first)
        kernels.forward[grid](
            s["u"], s["delta"], call.A, s["B"], s["C"], call.D, s["z"], call.bias, call.rows,
            starts, states if keep else None, y_to, y_add, call.sizes, first,
            UNROLL=FORWARD_UNROLL, CHUNK=CHUNK, **call.options,
        )  # fmt: skip
    return y.result()[0].to(u.dtype), states


def backward(
    dy, u, delta, A, B, C, D, z, bias, rows, states, softplus: bool, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """-> gradients of u, delta, A, B, C, D, z (empty without z) and bias."""
    call = _Call(u, delta, A, B, C, D, z, bias, rows, softplus, reverse)
    s, shape = {**call.sequences, "dy": sequence(dy[None])}, tuple(dy.shape)
    du = _Output(call, shape, u.dtype, slots=len(u))
    ddelta = _Output(call, shape, delta.dtype, slots=call.walks)
    dz = None if z is None else _Output(call, shape, z.dtype, slots=1)
    dB, dC = (torch.empty(B.shape, dtype=call.dtype, device=u.device) for _ in range(2))
    dA = call.empty(call.walks, call.state_blocks, call.block, call.channels)
    dD, dbias = (u.new_zeros(call.walks, call.channels, dtype=call.dtype) for _ in range(2))
    for first, count in call.launches():
        grid = (*call.grid, count)
        later = None
        if call.segments > 1:
            later, totals = call.ends(count)
            kernels.segment_gradients[grid](
                s["dy"], s["delta"], call.A, s["C"], s["z"], call.bias, call.rows, later, totals,
                call.sizes, first, UNROLL=FORWARD_UNROLL, **call.options,
            )  # fmt: skip
            call.carry(later, totals, first, backwards=True)
        outputs = [NO_OUTPUT if out is None else out.argument(first) for out in (du, ddelta, dz)]
        places, adds = zip(*outputs, strict=True)
        parts = (count, call.channel_blocks, call.batch, call.groups, call.length, call.block)
        dB_parts, dC_parts = call.empty(*parts), call.empty(*parts)
        n_programs = math.prod(grid)
        scratch = call.empty(n_programs, CHUNK // BACKWARD_UNROLL, call.block * WIDTH)
        per_program = (count, call.batch * call.segments)
        dA_parts = call.empty(*per_program, call.block, call.channels)
        dD_parts, dbias_parts = (call.empty(*per_program, call.channels) for _ in range(2))
        kernels.backward[grid](
            s["dy"], s["u"], s["delta"], call.A, s["B"], s["C"], call.D, s["z"], call.bias, call.rows,
            states, later, scratch, *places, dB_parts, dC_parts, dA_parts, dD_parts, dbias_parts, *adds,
            call.sizes, first, UNROLL=BACKWARD_UNROLL, CHUNK=CHUNK, **call.options,
        )  # fmt: skip
        for i, piece in enumerate(range(first, first + count)):
            walk, block = call.walk_of(piece), piece % call.state_blocks
            known = slice(block * call.block, min((block + 1) * call.block, call.n))
            width = known.stop - known.start
            dB[walk, ..., known] = dB_parts[i, ..., :width].sum(0)
            dC[walk, ..., known] = dC_parts[i, ..., :width].sum(0)
            dA[walk, block] = dA_parts[i].sum(0)
            dbias[walk] += dbias_parts[i].sum(0)
            if block == 0:
                dD[walk] = dD_parts[i].sum(0)
    dA = dA.flatten(1, 2)[:, : call.n].transpose(1, 2)
    dz_ = u.new_empty(0) if dz is None else dz.result()[0]
    return du.result(), ddelta.result(), dA, dB, dC, dD, dz_, dbias
