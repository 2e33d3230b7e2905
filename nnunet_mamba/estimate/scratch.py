"""Memory of operators that no tensor shows: scratch while they run, and compiled code.

Convolutions: what a device's library needs, as multiples of the input and the output that are measured once.
Scans: what the code in `nnunet_mamba.ops` allocates, by its own sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.estimate.work import name_of, nbytes
from nnunet_mamba.ops.torch_scan import CHUNK

CHUNK_TENSORS = 12  # of (b, CHUNK, d, n) that the torch backend holds at once
WHOLE_TENSORS = 6  # of (b, l, d), copies in walking order among them


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
    if name == "nnunet_mamba::selective_scan_backward":
        return _of_scan_backward(args)
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


def _of_scan_backward(args: tuple[Any, ...]) -> int:
    """Walks run one after the other; what they share, each adds to from a tensor of its own."""
    dy, u, delta, A, B, C, z, backend = (args[i] for i in (0, 1, 2, 3, 4, 5, 7, -1))
    work, walks = 8 if u.element_size() == 8 else 4, len(delta)
    of_one = sum(t is not None for t in (z, u if len(u) < walks else None)) if walks > 1 else 0
    if backend == "torch":
        chunk = dy.shape[0] * min(CHUNK, dy.shape[1]) * A[0].numel()
        return (CHUNK_TENSORS * chunk + (WHOLE_TENSORS + of_one) * dy.numel()) * work
    sums = (B.numel() + C.numel()) * (2 if walks > 1 else 1)  # dB and dC of each thread; then of each walk
    copy = 0 if dy.stride(-1) == 1 else 1
    return (sums + (of_one + copy) * dy.numel()) * work
