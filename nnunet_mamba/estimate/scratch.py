"""Memory of operators that no tensor shows: scratch while they run, and compiled code.

Convolutions: what a device's library needs, as multiples of the input and the output that are measured once.
Scans: what the code in `nnunet_mamba.ops` allocates, by its own sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.estimate.work import name_of, nbytes
from nnunet_mamba.ops.torch_scan import CHUNK

CHUNK_TENSORS = 12  # of (b, CHUNK, d, n) that the torch backend holds at once
WHOLE_TENSORS = 6  # of (b, l, d), copies in walking order among them

# Of triton_scan.py, which cannot be imported where triton is not (a test holds them together).
TRITON_CHUNK = 32  # steps between kept states
TRITON_KEPT = 16  # states per chunk that a program of backward keeps: CHUNK / BACKWARD_UNROLL
TRITON_WIDTH = 32  # channels of a program
TRITON_STATES = 16  # of a program at most
TRITON_SHORTEST = 128  # steps of a segment at least
TRITON_PROGRAMS = 132 * 8  # at once: the multiprocessors of an H100, and the programs on each untuned


def scratch_of(func: Any, args: tuple[Any, ...], result: Any, factors: Mapping[str, float]) -> int:
    """Bytes. `factors`, 0 where they are missing: conv_forward (of the weights and the larger of input and
    output), conv_transposed (of the output), conv_backward (of the weights, the output's gradient and, where
    its gradient is asked for, the input)."""
    name = name_of(func)
    if name == "aten::convolution":
        return int(_of_convolution(args[0], args[1], args[6], result, factors))
    if name == "aten::convolution_backward":
        grad, x, weight, wanted = args[0], args[1], args[2], args[10]
        sizes = nbytes(grad) + (nbytes(x) if wanted[0] else 0) + nbytes(weight)
        return int(factors.get("conv_backward", 0) * sizes)
    if name in SCANS:
        names = [argument.name for argument in func._schema.arguments]
        return SCANS[name](dict(zip(names, args, strict=True)))
    return 0


def _of_convolution(
    x: Tensor, weight: Tensor, transposed: bool, y: Tensor, factors: Mapping[str, float]
) -> float:
    if transposed:
        return factors.get("conv_transposed", 0) * nbytes(y)
    if math.prod(weight.shape[2:]) == 1:  # a matrix product
        return 0
    return factors.get("conv_forward", 0) * (max(nbytes(x), nbytes(y)) + nbytes(weight))


def kernel_of(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What tells one convolution's code from another's, where a library compiles it for its sizes."""
    name = name_of(func)
    if name not in ("aten::convolution", "aten::convolution_backward"):
        return None
    first = name.endswith("backward")
    return name, tuple(args[first].shape), tuple(args[first + 1].shape), repr(args[first + 3 :])


def _of_scan(args: Mapping[str, Any]) -> int:
    """Of the forward pass."""
    u, delta, A, B, backend = (args[name] for name in ("u", "delta", "A", "B", "backend"))
    if backend != "triton":
        return 0
    cut, work = _TritonCut(delta, A, B), _work_bytes(u)
    return work * (cut.ends() + cut.output(u.element_size() < work, delta[0].numel(), slots=1))


def _of_scan_backward(args: Mapping[str, Any]) -> int:
    """Walks run one after the other; what they share, each adds to from a tensor of its own."""
    dy, u, delta, A, B, C, z = (args[name] for name in ("dy", "u", "delta", "A", "B", "C", "z"))
    if args["backend"] == "triton":
        return _of_triton_backward(dy, u, delta, A, B, z)
    work, walks = _work_bytes(u), len(delta)
    of_one = sum(t is not None for t in (z, u if len(u) < walks else None)) if walks > 1 else 0
    if args["backend"] == "torch":
        chunk = dy.shape[0] * min(CHUNK, dy.shape[1]) * A[0].numel()
        return (CHUNK_TENSORS * chunk + (WHOLE_TENSORS + of_one) * dy.numel()) * work
    sums = (B.numel() + C.numel()) * (2 if walks > 1 else 1)  # dB and dC of each thread; then of each walk
    copy = 0 if dy.stride(-1) == 1 else 1
    return (sums + (of_one + copy) * dy.numel()) * work


def _of_triton_backward(dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, z: Tensor | None) -> int:
    cut, work = _TritonCut(delta, A, B), _work_bytes(u)
    tokens = B[0, ..., 0].numel() * cut.states  # of dB or dC of a piece
    parts = 2 * cut.at_once * cut.channel_blocks * tokens
    sums = 2 * cut.pieces * tokens
    if cut.state_blocks == 1 and cut.states == A.shape[2] and B.element_size() == work:
        sums = 0  # they are the results
    outputs = [(u, len(u)), (delta, len(delta)), *([] if z is None else [(z, 1)])]
    summed = sum(cut.output(t.element_size() < work, dy.numel(), slots) for t, slots in outputs)
    copy = 0 if dy.is_contiguous() else dy.numel() * dy.element_size()
    return work * (parts + sums + summed + cut.ends() + cut.programs_backward()) + copy


class _TritonCut:
    """How `triton_scan` cuts a call into programs; on a GPU of which it knows nothing, as on an H100.

    Shapes: delta (k, b, l, d); A (k, d, n); B (k, b, g, l, n).
    """

    def __init__(self, delta: Tensor, A: Tensor, B: Tensor):
        (walks, batch, length, channels), groups, n = delta.shape, B.shape[2], A.shape[2]
        self.states = min(TRITON_STATES, 1 << (n - 1).bit_length())
        self.state_blocks = -(-n // self.states)
        self.pieces = walks * self.state_blocks
        self.channel_blocks = -(-(channels // groups) // TRITON_WIDTH)
        per_piece, wanted = batch * groups * self.channel_blocks, TRITON_PROGRAMS
        together = self.pieces > 1 and per_piece * length < wanted * TRITON_SHORTEST
        self.at_once = self.pieces if together else 1
        steps = max(TRITON_SHORTEST, -(-length * per_piece * self.at_once // wanted))
        self.segments = -(-length // (-(-steps // TRITON_CHUNK) * TRITON_CHUNK))
        self.programs = per_piece * self.segments * self.at_once

    def ends(self) -> int:
        """Values: states and step sizes at the ends of segments."""
        return 0 if self.segments == 1 else self.programs * TRITON_WIDTH * (self.states + 1)

    def programs_backward(self) -> int:
        """Values: the states that a program walks back through, and its share of dA, dD and dbias."""
        return self.programs * TRITON_WIDTH * (TRITON_KEPT * self.states + self.states + 2)

    def output(self, narrow: bool, numel: int, slots: int) -> int:
        """Values beyond the result, for one that pieces add up to: a tensor for each piece that runs with
        others, and sums where the result is `narrow`er than they are."""
        if self.pieces == slots:
            return 0
        return numel * ((self.pieces if self.at_once > 1 else 0) + (slots if narrow else 0))


def _work_bytes(u: Tensor) -> int:
    """Of a value of sums."""
    return 8 if u.element_size() == 8 else 4


SCANS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "nnunet_mamba::selective_scan": _of_scan,
    "nnunet_mamba::selective_scan_backward": _of_scan_backward,
}
