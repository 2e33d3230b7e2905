"""The selective scan on NVIDIA GPUs: how a call is cut into programs of `triton_kernels`, and their launches.

Shapes: k walks, b batch, l tokens, d channels, g groups, n states; u (k or 1, b, l, d); delta (k, b, l, d);
A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d); z, y (b, l, d); rows (k, l); `reverse`, one bool per walk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops import triton_kernels as kernels
from nnunet_mamba.ops import triton_tuning
from nnunet_mamba.ops.chunks import CHUNKS, chunk_count

CHUNK = CHUNKS["triton"]
FORWARD_UNROLL, BACKWARD_UNROLL = 4, 2
WIDTH = 32  # channels of a program: the lanes of a warp
MOST_STATES = 16  # of a program, in each lane's registers
SHORTEST = 128  # steps: shorter segments are not worth the second walk
CARRY_BLOCK = 64
NO_SEQUENCE = (None, 0, 0, 0)
NO_OUTPUT = (NO_SEQUENCE, False)


class _Call:
    """One call: its sequences as the kernels want them, and its cut into pieces, blocks and segments."""

    def __init__(self, *arguments: Any, per_processor: int | None = None):
        self.arguments = u, delta, A, B, C, D, z, bias, rows, softplus, reverse = arguments
        self.walks, self.batch, self.length, self.channels = delta.shape
        self.groups, self.n = B.shape[2], A.shape[2]
        self.u, self.dtype = u, torch.float64 if u.dtype == torch.float64 else torch.float32
        self.block = min(MOST_STATES, triton.next_power_of_2(self.n))
        self.state_blocks = -(-self.n // self.block)
        self.pieces = self.walks * self.state_blocks
        self.channel_blocks = -(-(self.channels // self.groups) // WIDTH)
        self.together, segment = self.cut(processors(u.device) * (per_processor or self.tuned()))
        self.segments = -(-self.length // segment)
        mask = sum(1 << walk for walk, backwards in enumerate(reverse) if backwards)
        self.sizes = kernels.Sizes(
            self.length,
            self.channels,
            self.channels // self.groups,
            self.groups,
            self.n,
            self.channel_blocks,
            self.state_blocks,
            self.batch,
            self.segments,
            segment,
            mask,
        )
        pieces_at_once = self.pieces if self.together else 1
        self.grid = (self.batch * self.segments, self.groups * self.channel_blocks, pieces_at_once)
        rates = A.detach().to(self.dtype) * math.log2(math.e)
        padded = F.pad(rates, (0, self.state_blocks * self.block - self.n))
        self.A = padded.transpose(1, 2).contiguous()  # (k, state blocks * states, d)
        self.D, self.bias, self.rows = (None if t is None else t.contiguous() for t in (D, bias, rows))
        self.u_delta = sequence(u), sequence(delta)
        self.B, self.C = sequence(B), sequence(C)
        self.z = NO_SEQUENCE if z is None else sequence(z[None])
        self.options = {
            "SOFTPLUS": softplus,
            "TERMS": 17 if self.dtype == torch.float64 else 8,
            "ACC": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "INDEX": tl.int32 if self.fits_int32() else tl.int64,
            "N": self.block,
            "WIDTH": WIDTH,
            "num_warps": 1,
            "enable_fp_fusion": True,
        }

    def fits_int32(self) -> bool:
        """Whether 32 bits can count the values of one batch item, contiguous outputs and dy included."""
        rows = (s[-1] for s in (*self.u_delta, self.B, self.C, self.z))
        return self.length * max(*rows, self.channels) < 2**31

    def cut(self, wanted: int) -> tuple[bool, int]:
        """Whether all pieces run together, and steps per segment, for about `wanted` programs at once.

        A piece that can fill the device by itself runs alone: it needs no output of its own.
        """
        per_piece = self.batch * self.groups * self.channel_blocks
        together = self.pieces > 1 and per_piece * self.length < wanted * SHORTEST
        programs = per_piece * (self.pieces if together else 1)
        steps = max(SHORTEST, -(-self.length * programs // wanted))
        return together, -(-steps // CHUNK) * CHUNK

    def tuned(self) -> int:
        """Programs per multiprocessor; looked for with the forward pass, which backward resembles."""
        if self.u.device.type != "cuda":
            return triton_tuning.DEFAULT
        tokens = (self.batch * self.length).bit_length()
        sizes = f"k{self.walks} b{self.batch} d{self.channels} g{self.groups} n{self.n} tokens 2^{tokens}"
        device, software = torch.cuda.get_device_name(self.u.device), f"triton {triton.__version__}"
        key = f"{device}, {software}, {self.u.dtype}, {sizes}"
        if torch.cuda.is_current_stream_capturing():
            return triton_tuning.known(key)

        def seconds(candidate: int) -> float:
            call = _Call(*self.arguments, per_processor=candidate)
            return triton_tuning.seconds_on_gpu(lambda: _forward(call, keep=False))

        return triton_tuning.programs_per_processor(key, seconds)

    def launches(self) -> range:
        """The first piece of each launch."""
        return range(0, self.pieces, self.grid[2])

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.u.device)

    def ends(self) -> tuple[Tensor | None, Tensor | None]:
        """Room for the states at ends of segments, and for step sizes; None where there is one segment."""
        if self.segments == 1:
            return None, None
        shape = (self.grid[2], self.batch, self.segments)
        return self.empty(*shape, self.block, self.channels), self.empty(*shape, self.channels)

    def carry(self, ends: Tensor, totals: Tensor | None, first: int, backwards: bool) -> None:
        grid = (-(-self.block * self.channels // CARRY_BLOCK), self.batch, len(ends))
        kernels.carry[grid](
            ends, totals, self.A, self.sizes, first, BACKWARDS=backwards, N=self.block, BLOCK=CARRY_BLOCK,
            ACC=self.options["ACC"], num_warps=CARRY_BLOCK // 32, enable_fp_fusion=True,
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

    def argument(self, first: int) -> tuple[tuple[Any, ...], bool]:
        """The sequence that a launch writes to, and whether it adds to what is there."""
        if self.call.together:
            return sequence(self.data), False
        slot = self.slot(first)
        again = first > 0 and self.slot(first - 1) == slot
        return sequence(self.data[slot : slot + 1]), again

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


def forward(
    u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """-> y (b, l, d) in u's dtype and, if `keep`, the states before each chunk (k, b, chunks, n, d)."""
    with torch.cuda.device_of(u):
        return _forward(_Call(u, delta, A, B, C, D, z, bias, rows, softplus, reverse), keep)


def _forward(call: _Call, keep: bool) -> tuple[Tensor, Tensor]:
    y = _Output(call, (call.batch, call.length, call.channels), call.u.dtype, slots=1)
    shape = (
        (call.walks, call.batch, chunk_count("triton", call.length), call.n, call.channels) if keep else (0,)
    )
    states, (starts, totals) = call.empty(*shape), call.ends()
    options = {"UNROLL": FORWARD_UNROLL, **call.options}
    for first in call.launches():
        if starts is not None:
            kernels.segment_ends[call.grid](
                *call.u_delta,
                call.A,
                call.B,
                call.bias,
                call.rows,
                starts,
                totals,
                call.sizes,
                first,
                **options,
            )
            call.carry(starts, totals, first, backwards=False)
        y_to, y_add = y.argument(first)
        kernels.forward[call.grid](
            *call.u_delta, call.A, call.B, call.C, call.D, call.z, call.bias, call.rows,
            starts, states if keep else None, y_to, call.sizes, first, Y_ADD=y_add, CHUNK=CHUNK, **options,
        )  # fmt: skip
    return y.result()[0].to(call.u.dtype), states


def backward(
    dy, u, delta, A, B, C, D, z, bias, rows, states, softplus: bool, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """-> gradients of u, delta, A, B, C, D, z (empty without z) and bias."""
    with torch.cuda.device_of(u):
        call = _Call(u, delta, A, B, C, D, z, bias, rows, softplus, reverse)
        return _backward(call, dy.contiguous(), states)


def _backward(call: _Call, dy: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    u, delta, z = call.u, call.arguments[1], call.arguments[6]
    dy_from, shape = sequence(dy[None]), tuple(dy.shape)
    du = _Output(call, shape, u.dtype, slots=len(u))
    ddelta = _Output(call, shape, delta.dtype, slots=call.walks)
    dz = None if z is None else _Output(call, shape, z.dtype, slots=1)
    sums, (later, totals) = _Sums(call), call.ends()
    scratch = call.empty(math.prod(call.grid), CHUNK // BACKWARD_UNROLL, call.block * WIDTH)
    for first in call.launches():
        if later is not None:
            kernels.segment_gradients[call.grid](
                dy_from, call.u_delta[1], call.A, call.C, call.z, call.bias, call.rows, later, totals,
                call.sizes, first, UNROLL=FORWARD_UNROLL, **call.options,
            )  # fmt: skip
            call.carry(later, totals, first, backwards=True)
        outputs = [NO_OUTPUT if out is None else out.argument(first) for out in (du, ddelta, dz)]
        places, adds = zip(*outputs, strict=True)
        kernels.backward[call.grid](
            dy_from, *call.u_delta, call.A, call.B, call.C, call.D, call.z, call.bias, call.rows,
            states, later, scratch, *places, *sums.parts, call.sizes, first,
            **dict(zip(("DU_ADD", "DDELTA_ADD", "DZ_ADD"), adds, strict=True)),
            UNROLL=BACKWARD_UNROLL, CHUNK=CHUNK, **call.options,
        )  # fmt: skip
        sums.add(first)
    dA, dB, dC, dD, dbias = sums.results()
    return du.result(), ddelta.result(), dA, dB, dC, dD, dz.result()[0] if dz else u.new_empty(0), dbias


class _Sums:
    """Gradients of B, C, A, D and bias: sums, in a fixed order, of what programs or blocks of channels leave.

    `parts` is what a launch writes: dB, dC (pieces, channel blocks, b, g, l, states), dA (pieces, programs,
    states, d), dD and dbias (pieces, programs, d).
    """

    def __init__(self, call: _Call):
        self.call = call
        tokens = (call.batch, call.groups, call.length, call.block)
        per_channel = ((call.block, call.channels), (call.channels,), (call.channels,))
        count, programs = call.grid[2], call.batch * call.segments
        self.whole = [call.empty(call.pieces, *shape) for shape in (tokens, tokens, *per_channel)]
        self.parts = [call.empty(count, call.channel_blocks, *tokens) for _ in range(2)]
        self.parts += [call.empty(count, programs, *shape) for shape in per_channel]

    def add(self, first: int) -> None:
        for part, whole in zip(self.parts, self.whole, strict=True):
            torch.sum(part, 1, out=whole[first : first + len(part)])

    def results(self) -> tuple[Tensor, ...]:
        """dA (k, d, n), dB, dC (k, b, g, l, n), dD, dbias (k, d)."""
        call = self.call
        dB, dC, dA, dD, dbias = (t.unflatten(0, (call.walks, call.state_blocks)) for t in self.whole)
        dB, dC = (t.movedim(1, -2).flatten(-2)[..., : call.n] for t in (dB, dC))
        return dA.flatten(1, 2)[:, : call.n].transpose(1, 2), dB, dC, dD[:, 0], dbias.sum(1)
