"""Workspace of operators, the memory beside their tensors that they take while they run.

Convolutions: multiples of input and output, measured once for a device's library. Scans: the temporary
tensors of the code in `nnunet_mamba.ops`, from its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops import triton_cut
from nnunet_mamba.ops.constants import CHUNKS, LINEAR_CHUNKS, UNROLL, WIDTH
from nnunet_mamba.ops.multi_scan import attention_states
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.torch_linear_attention import BLOCK_VALUES
from nnunet_mamba.ops.triton_cut import Cut, ScanSizes

CONVOLUTION, CONVOLUTION_BACKWARD = "aten::convolution", "aten::convolution_backward"

CHUNK_TENSORS = 12  # of (b, chunk, d, n) that the torch backend holds at once
WHOLE_TENSORS = 6  # of (b, l, d), copies in the order of the scan among them
BLOCK_MATRICES = {"forward": 6, "backward": 12}  # that the torch backend of linear attention holds at once

PROCESSORS = 132  # of an H100
AT_ONCE = {"forward": 16, "backward": 8}  # programs of one, as the registers of Triton's kernels allow


def workspace_of(func: Any, args: tuple[Any, ...], result: Any, factors: Mapping[str, float]) -> int:
    """Return the bytes of workspace of one call of an operator.

    Args:
        factors: conv_forward (of the weights and the larger of input and output), conv_transposed (of the
            output), conv_backward (of the weights, the output's gradient and, if its gradient is needed, the
            input); 0 if missing. A depthwise convolution takes none if the channels of its input are last in
            memory.
    """
    name = func._schema.name
    if name == CONVOLUTION:
        if _is_depthwise_in_place(args[0], groups=args[8]):
            return 0
        return int(_convolution_bytes(args[0], args[1], args[6], result, factors))
    if name == CONVOLUTION_BACKWARD:
        grad, x, weight, wanted = args[0], args[1], args[2], args[10]
        if _is_depthwise_in_place(grad, x, groups=args[9]):
            return 0
        sizes = grad.nbytes + (x.nbytes if wanted[0] else 0) + weight.nbytes
        return int(factors.get("conv_backward", 0) * sizes)
    if name in SCANS:
        names = [argument.name for argument in func._schema.arguments]
        return SCANS[name](dict(zip(names, args, strict=True)))
    return 0


def _is_depthwise_in_place(*maps: Tensor, groups: int) -> bool:
    channels_last = torch.channels_last_3d if maps[0].ndim == 5 else torch.channels_last
    return all(groups == x.shape[1] and x.is_contiguous(memory_format=channels_last) for x in maps)


def _convolution_bytes(
    x: Tensor, weight: Tensor, transposed: bool, y: Tensor, factors: Mapping[str, float]
) -> float:
    if transposed:
        return factors.get("conv_transposed", 0) * y.nbytes
    if math.prod(weight.shape[2:]) == 1:  # a matrix product
        return 0
    return factors.get("conv_forward", 0) * (max(x.nbytes, y.nbytes) + weight.nbytes)


def kernel_key(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return a key for the code of a convolution, which a library compiles for its sizes; None for others."""
    name = func._schema.name
    if name not in (CONVOLUTION, CONVOLUTION_BACKWARD):
        return None
    first = 1 if name == CONVOLUTION_BACKWARD else 0  # argument that is the input; weight and bias follow
    return name, tuple(args[first].shape), tuple(args[first + 1].shape), repr(args[first + 3 :])


def _scan_bytes(args: Mapping[str, Any]) -> int:
    """Return the workspace of a scan's forward pass."""
    u, delta, A, B, backend = (args[name] for name in ("u", "delta", "A", "B", "backend"))
    if backend != "triton":
        return 0
    cut, work = _scan_cut("forward", delta, A, B), _sum_bytes(u)
    return work * (
        _count_ends(cut) + _count_partial_sums(cut, u.element_size() < work, delta[0].numel(), slots=1)
    )


def _scan_backward_bytes(args: Mapping[str, Any]) -> int:
    """Return the workspace of a scan's backward pass. Directions run one after the other; each adds its
    gradients of shared inputs from a temporary tensor."""
    dy, u, delta, A, B, C, z = (args[name] for name in ("dy", "u", "delta", "A", "B", "C", "z"))
    if args["backend"] == "triton":
        return _triton_backward_bytes(dy, u, delta, A, B, z)
    work, directions = _sum_bytes(u), len(delta)
    of_one = sum(t is not None for t in (z, u if len(u) < directions else None)) if directions > 1 else 0
    if args["backend"] == "torch":
        chunk = dy.shape[0] * min(CHUNKS["torch"], dy.shape[1]) * A[0].numel()
        return (CHUNK_TENSORS * chunk + (WHOLE_TENSORS + of_one) * dy.numel()) * work
    sums = (B.numel() + C.numel()) * (
        2 if directions > 1 else 1
    )  # dB and dC of each thread; then of each direction
    copy = 0 if dy.stride(-1) == 1 else 1
    return (sums + (of_one + copy) * dy.numel()) * work


def _triton_backward_bytes(
    dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, z: Tensor | None
) -> int:
    cut, work = _scan_cut("backward", delta, A, B), _sum_bytes(u)
    s, tokens, launched = cut.sizes, B[0].numel(), math.prod(cut.grid)
    of_tokens = 2 * cut.directions_at_once * s.channel_blocks * tokens if s.channel_blocks > 1 else 0
    of_programs = 0
    if cut.programs > 1:
        of_programs = cut.directions_at_once * cut.programs * s.channels * (s.n + 1 + s.state_blocks)
    sums = 2 * s.directions * tokens if B.element_size() < work else 0  # else they are the results
    outputs = [(u, len(u)), (delta, len(delta)), *([] if z is None else [(z, 1)])]
    summed = sum(_count_partial_sums(cut, t.element_size() < work, dy.numel(), slots) for t, slots in outputs)
    kept_states = launched * WIDTH * s.states * CHUNKS["triton"] // UNROLL["backward"]
    copy = 0 if dy.is_contiguous() else dy.numel() * dy.element_size()
    return work * (of_tokens + of_programs + sums + summed + _count_ends(cut) + kept_states) + copy


def _scan_cut(phase: str, delta: Tensor, A: Tensor, B: Tensor) -> Cut:
    """delta (k, b, l, d); A (k, d, n); B (k, b, g, l, n)"""
    directions, batch, length, channels = delta.shape
    sizes = ScanSizes(directions, batch, length, channels, groups=B.shape[2], n=A.shape[2])
    return triton_cut.cut(sizes, phase, PROCESSORS, AT_ONCE[phase])


def _count_ends(cut: Cut) -> int:
    """Count the values of states and step sizes at the ends of segments."""
    s = cut.sizes
    return 0 if cut.segments == 1 else cut.at_once * cut.programs * s.channels * (s.states + 1)


def _count_partial_sums(cut: Cut, narrow: bool, numel: int, slots: int) -> int:
    """Count the values beside a result to which pieces add up: a tensor for each piece that runs at the same
    time as others, and the sums if the result is `narrow`er than they are."""
    pieces = cut.sizes.pieces
    if pieces == slots:
        return 0
    return numel * ((pieces if cut.together else 0) + (slots if narrow else 0))


def _sum_bytes(u: Tensor) -> int:
    """Return the bytes of a value of sums."""
    return accumulation_dtype(u).itemsize


def _attention_bytes(args: Mapping[str, Any]) -> int:
    """Return the workspace of linear attention's forward pass."""
    values, keys, backend = (args[name] for name in ("values", "keys", "backend"))
    further = values[0].numel() if len(keys) > 1 and backend != "triton" else 0  # a second direction's output
    kept = 0 if args["keep"] or backend != "triton" else _count_states(values, keys)
    return (further + kept + _count_block("forward", values, keys, backend)) * _sum_bytes(values)


def _attention_backward_bytes(args: Mapping[str, Any]) -> int:
    """Return the workspace of linear attention's backward pass; on a GPU the gradients of all states."""
    values, keys, backend = (args[name] for name in ("values", "keys", "backend"))
    further = values[0].numel() if len(values) < len(keys) and backend != "triton" else 0
    ends = _count_states(values, keys) if backend == "triton" else 0
    return (further + ends + _count_block("backward", values, keys, backend)) * _sum_bytes(values)


def _count_states(values: Tensor, keys: Tensor) -> int:
    """Count the values of the states before all chunks on a GPU."""
    return math.prod(attention_states(LINEAR_CHUNKS["triton"], values, keys, keep=True))


def _count_block(phase: str, values: Tensor, keys: Tensor, backend: str) -> int:
    """Count the values of the matrices of the torch backend's blocks."""
    if backend != "torch":
        return 0
    tokens, widest = values.shape[1] * values.shape[2] * values.shape[3], max(values.shape[4], keys.shape[4])
    return BLOCK_MATRICES[phase] * min(BLOCK_VALUES, tokens * max(LINEAR_CHUNKS["torch"], widest))


SCANS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "nnunet_mamba::selective_scan": _scan_bytes,
    "nnunet_mamba::selective_scan_backward": _scan_backward_bytes,
    "nnunet_mamba::linear_attention": _attention_bytes,
    "nnunet_mamba::linear_attention_backward": _attention_backward_bytes,
}
