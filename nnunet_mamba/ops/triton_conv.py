"""The causal depthwise convolution on NVIDIA GPUs: launches of `triton_conv_kernels`.

Shapes: x (k or 1, b, l, d); weight (k, d, w); bias (k, d); rows (k, l); y (k, b, l, d); `reverse`, a bool per
walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops.multi_scan import dtype_of_sums
from nnunet_mamba.ops.triton_conv_kernels import conv_backward, conv_forward
from nnunet_mamba.ops.triton_launch import Kernel, compile_all
from nnunet_mamba.ops.triton_scan import index_type, kept_plan, processors, row_contiguous, strides

UNROLL = 8  # steps at a time
WIDTH = 32  # channels of a program: the lanes of a warp
AT_ONCE = 32  # programs of a multiprocessor
SHORTEST = 32  # steps of a segment
INPUTS = ("x", "weight", "bias", "rows")
_plans: dict[Any, _Plan] = {}


def forward(x: Tensor, weight: Tensor, bias, rows, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """-> y (k, b, l, d) in x's dtype."""
    inputs = _laid_out(x, weight, bias, rows)
    with torch.cuda.device_of(x):
        return _plan_of(inputs, silu, reverse).forward(inputs)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias, rows, silu: bool, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x, weight, bias; the latter two in the dtype of the sums."""
    inputs = _laid_out(x, weight, bias, rows)
    with torch.cuda.device_of(x):
        return _plan_of(inputs, silu, reverse).backward(inputs, dy.to(x.dtype).contiguous())


def _laid_out(x: Tensor, weight: Tensor, bias, rows) -> tuple[Tensor | None, ...]:
    return row_contiguous(x), *(None if t is None else t.contiguous() for t in (weight, bias, rows))


def _plan_of(inputs: Sequence[Tensor | None], silu: bool, reverse: Sequence[bool]) -> _Plan:
    plan: _Plan = kept_plan(_plans, _Plan, inputs, silu, reverse)
    return plan


class _Plan:
    """What calls of the same shapes, strides and types have in common."""

    def __init__(self, inputs: Sequence[Tensor | None], silu: bool, reverse: Sequence[bool]):
        x, weight, *_ = inputs
        assert x is not None and weight is not None
        _, batch, length, channels = x.shape
        self.walks, taps = weight.shape[0], weight.shape[2]
        self.shape, self.taps, self.dtype, self.device = x.shape, taps, x.dtype, x.device
        self.sums = dtype_of_sums(x)
        self.shared = len(x) == 1 and self.walks > 1
        self.launched = 1 if self.shared else self.walks  # walks of a launch of the gradients
        self.forward_cut, self.backward_cut = self._cut(self.walks), self._cut(self.launched)
        walk, item, row = strides(x)
        self.integers = {
            **{"length": length, "channels": channels, "batch": batch, "first": 0},
            **{"x_walk": walk, "x_item": item, "x_row": row},
            "reverse": sum(1 << walk for walk, backwards in enumerate(reverse) if backwards),
        }
        constants = {
            "SILU": silu,
            "TAPS": taps,
            "UNROLL": UNROLL,
            "ACC": tl.float64 if self.sums == torch.float64 else tl.float32,
            "INDEX": index_type(length * max(channels, row)),
            "WIDTH": WIDTH,
        }
        types = {n: None if t is None else t.dtype for n, t in zip(INPUTS, inputs, strict=True)}
        types |= {"y": x.dtype, "dy": x.dtype, "dx": self.dx_type, "dweight": self.sums, "dbias": self.sums}

        integers = {**self.integers, "segments": 0, "segment_steps": 0}

        def kernel(function: Any, **adds: bool) -> Kernel:
            options = {"num_warps": 1, "enable_fp_fusion": True}
            return Kernel(function, types, integers, {**constants, **adds}, **options)

        self.kernel = kernel(conv_forward)
        self.gradients = [kernel(conv_backward, ADD=add) for add in (False, True)[: 1 + self.shared]]
        compile_all([self.kernel], x.device)

    def _cut(self, walks: int) -> tuple[tuple[int, int, int], dict[str, int]]:
        """Grid, and integers, of a launch of so many walks."""
        _, batch, length, channels = self.shape
        blocks, wanted = -(-channels // WIDTH), AT_ONCE * processors(self.device)
        steps = max(SHORTEST, -(-length * batch * blocks * walks // wanted))
        segments = -(-length // steps)
        return (batch * segments, blocks, walks), {"segments": segments, "segment_steps": steps}

    @property
    def dx_type(self) -> torch.dtype:
        return self.sums if self.shared else self.dtype

    def forward(self, inputs: Sequence[Tensor | None]) -> Tensor:
        grid, cutting = self.forward_cut
        y = torch.empty((self.walks, *self.shape[1:]), dtype=self.dtype, device=self.device)
        self.kernel(grid, {**self.integers, **cutting, **dict(zip(INPUTS, inputs, strict=True)), "y": y})
        return y

    def backward(self, inputs: Sequence[Tensor | None], dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        compile_all(self.gradients, self.device)
        grid, cutting = self.backward_cut
        dx = torch.empty(self.shape, dtype=self.dx_type, device=self.device)
        parts = (self.walks, grid[0], self.shape[3])
        dweight = torch.empty((*parts, self.taps), dtype=self.sums, device=self.device)
        dbias = torch.empty(parts, dtype=self.sums, device=self.device)
        values = {**self.integers, **cutting, **dict(zip(INPUTS, inputs, strict=True)), "dy": dy, "dx": dx}
        for walk in range(0, self.walks, self.launched):  # those that share x add to its gradient
            values |= {"first": walk, "dweight": dweight[walk:], "dbias": dbias[walk:]}
            self.gradients[walk > 0](grid, values)
        return dx, dweight.sum(1), dbias.sum(1)
