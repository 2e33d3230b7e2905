"""Memory of operators that no tensor shows: scratch while they run, and compiled code.

Convolutions: what a device's library needs, as multiples of the input and the output that are measured once.
Scans: what the code in `nnunet_mamba.ops` allocates, by its own sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.memory.work import name_of, nbytes
from nnunet_mamba.ops import triton_cut
from nnunet_mamba.ops.constants import CHUNKS, UNROLL, WIDTH
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.triton_cut import Cut, ScanSizes

CHUNK_TENSORS = 12  # of (b, chunk, d, n) that the torch backend holds at once
WHOLE_TENSORS = 6  # of (b, l, d), copies in the order of the scan among them

PROCESSORS = 132  # of an H100
AT_ONCE = {"forward": 16, "backward": 8}  # programs of one, as the registers of Triton's kernels allow


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
    cut, work = _cut("forward", delta, A, B), _work_bytes(u)
    return work * (_ends(cut) + _summed(cut, u.element_size() < work, delta[0].numel(), slots=1))


def _of_scan_backward(args: Mapping[str, Any]) -> int:
    """Directions run one after the other; what they share, each adds to from a tensor of its own."""
    dy, u, delta, A, B, C, z = (args[name] for name in ("dy", "u", "delta", "A", "B", "C", "z"))
    if args["backend"] == "triton":
        return _of_triton_backward(dy, u, delta, A, B, z)
    work, directions = _work_bytes(u), len(delta)
    of_one = sum(t is not None for t in (z, u if len(u) < directions else None)) if directions > 1 else 0
    if args["backend"] == "torch":
        chunk = dy.shape[0] * min(CHUNKS["torch"], dy.shape[1]) * A[0].numel()
        return (CHUNK_TENSORS * chunk + (WHOLE_TENSORS + of_one) * dy.numel()) * work
    sums = (B.numel() + C.numel()) * (
        2 if directions > 1 else 1
    )  # dB and dC of each thread; then of each direction
    copy = 0 if dy.stride(-1) == 1 else 1
    return (sums + (of_one + copy) * dy.numel()) * work


def _of_triton_backward(dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, z: Tensor | None) -> int:
    cut, work = _cut("backward", delta, A, B), _work_bytes(u)
    s, tokens, launched = cut.sizes, B[0].numel(), math.prod(cut.grid)
    of_tokens = 2 * cut.directions_at_once * s.channel_blocks * tokens if s.channel_blocks > 1 else 0
    of_programs = 0
    if cut.programs > 1:
        of_programs = cut.directions_at_once * cut.programs * s.channels * (s.n + 1 + s.state_blocks)
    sums = 2 * s.directions * tokens if B.element_size() < work else 0  # else they are the results
    outputs = [(u, len(u)), (delta, len(delta)), *([] if z is None else [(z, 1)])]
    summed = sum(_summed(cut, t.element_size() < work, dy.numel(), slots) for t, slots in outputs)
    kept_states = launched * WIDTH * s.states * CHUNKS["triton"] // UNROLL["backward"]
    copy = 0 if dy.is_contiguous() else dy.numel() * dy.element_size()
    return work * (of_tokens + of_programs + sums + summed + _ends(cut) + kept_states) + copy


def _cut(phase: str, delta: Tensor, A: Tensor, B: Tensor) -> Cut:
    """delta (k, b, l, d); A (k, d, n); B (k, b, g, l, n)"""
    directions, batch, length, channels = delta.shape
    sizes = ScanSizes(directions, batch, length, channels, groups=B.shape[2], n=A.shape[2])
    return triton_cut.cut(sizes, phase, PROCESSORS, AT_ONCE[phase])


def _ends(cut: Cut) -> int:
    """Values: states and step sizes at the ends of segments."""
    s = cut.sizes
    return 0 if cut.segments == 1 else cut.at_once * cut.programs * s.channels * (s.states + 1)


def _summed(cut: Cut, narrow: bool, numel: int, slots: int) -> int:
    """Values beyond the result, for one that pieces add up to: a tensor for each piece that runs with others,
    and sums where the result is `narrow`er than they are."""
    pieces = cut.sizes.pieces
    if pieces == slots:
        return 0
    return numel * ((pieces if cut.together else 0) + (slots if narrow else 0))


def _work_bytes(u: Tensor) -> int:
    """Of a value of sums."""
    return accumulation_dtype(u).itemsize


SCANS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "nnunet_mamba::selective_scan": _of_scan,
    "nnunet_mamba::selective_scan_backward": _of_scan_backward,
}
