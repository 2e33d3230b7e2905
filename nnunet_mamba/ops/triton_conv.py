"""The causal depthwise convolution on NVIDIA GPUs: launches of `triton_conv_kernels`.

Shapes: x (k or 1, b, l, d); weight (k, d, w); bias (k, d); indices (k, l); y (k, b, l, d); `reverse`, one
bool per direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops.constants import WIDTH
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.triton_conv_kernels import conv_backward, conv_forward
from nnunet_mamba.ops.triton_launch import Kernel, compile_all
from nnunet_mamba.ops.triton_scan import cached_plan, index_type, processors, row_contiguous, strides

TAKES_ALL_DIRECTIONS = True
UNROLL = 8  # steps at a time
AT_ONCE = 32  # programs of a multiprocessor
SHORTEST = 32  # steps of a segment
INPUTS = ("x", "weight", "bias", "indices")
_plans: dict[Any, ConvLaunchPlan] = {}


def forward(x: Tensor, weight: Tensor, bias, indices, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """Return y (k, b, l, d) in x's dtype."""
    inputs = _laid_out(x, weight, bias, indices)
    with torch.cuda.device_of(x):
        return _plan_of(inputs, silu, reverse).forward(inputs)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias, indices, silu: bool, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x, weight, bias; the latter two in the accumulation dtype."""
    inputs = _laid_out(x, weight, bias, indices)
    with torch.cuda.device_of(x):
        return _plan_of(inputs, silu, reverse).backward(inputs, dy.to(x.dtype).contiguous())


def _laid_out(x: Tensor, weight: Tensor, bias, indices) -> tuple[Tensor | None, ...]:
    """Return the tensors as the kernels read them: x with a contiguous last axis, the others contiguous."""
    return row_contiguous(x), *(None if t is None else t.contiguous() for t in (weight, bias, indices))


def _plan_of(inputs: Sequence[Tensor | None], silu: bool, reverse: Sequence[bool]) -> ConvLaunchPlan:
    """Return the plan of calls of this kind."""
    plan: ConvLaunchPlan = cached_plan(_plans, ConvLaunchPlan, inputs, silu, reverse)
    return plan


class ConvLaunchPlan:
    """Plan of calls of the same shapes, strides and types: kernels, integers and cuts."""

    def __init__(self, inputs: Sequence[Tensor | None], silu: bool, reverse: Sequence[bool]):
        x, weight, *_ = inputs
        assert x is not None and weight is not None
        _, batch, length, channels = x.shape
        self.directions, taps = weight.shape[0], weight.shape[2]
        self.shape, self.taps, self.dtype, self.device = x.shape, taps, x.dtype, x.device
        self.sums = accumulation_dtype(x)
        self.shared = len(x) == 1 and self.directions > 1
        self.launched = 1 if self.shared else self.directions  # directions of a launch of the gradients
        self.forward_cut, self.backward_cut = self._cut(self.directions), self._cut(self.launched)
        direction, item, row = strides(x)
        self.integers = {
            **{"length": length, "channels": channels, "batch": batch, "first": 0},
            **{"x_direction": direction, "x_item": item, "x_row": row},
            "reverse": sum(1 << direction for direction, is_reversed in enumerate(reverse) if is_reversed),
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

    def _cut(self, directions: int) -> tuple[tuple[int, int, int], dict[str, int]]:
        """Return the grid and the integers of a launch of some directions."""
        _, batch, length, channels = self.shape
        blocks, wanted = -(-channels // WIDTH), AT_ONCE * processors(self.device)
        steps = max(SHORTEST, -(-length * batch * blocks * directions // wanted))
        segments = -(-length // steps)
        return (batch * segments, blocks, directions), {"segments": segments, "segment_steps": steps}

    @property
    def dx_type(self) -> torch.dtype:
        """Return the dtype of dx: that of sums if directions add to it."""
        return self.sums if self.shared else self.dtype

    def forward(self, inputs: Sequence[Tensor | None]) -> Tensor:
        grid, cutting = self.forward_cut
        y = torch.empty((self.directions, *self.shape[1:]), dtype=self.dtype, device=self.device)
        self.kernel(grid, {**self.integers, **cutting, **dict(zip(INPUTS, inputs, strict=True)), "y": y})
        return y

    def backward(self, inputs: Sequence[Tensor | None], dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        compile_all(self.gradients, self.device)
        grid, cutting = self.backward_cut
        dx = torch.empty(self.shape, dtype=self.dx_type, device=self.device)
        parts = (self.directions, grid[0], self.shape[3])
        dweight = torch.empty((*parts, self.taps), dtype=self.sums, device=self.device)
        dbias = torch.empty(parts, dtype=self.sums, device=self.device)
        values = {**self.integers, **cutting, **dict(zip(INPUTS, inputs, strict=True)), "dy": dy, "dx": dx}
        for direction in range(0, self.directions, self.launched):  # those that share x add to its gradient
            values |= {"first": direction, "dweight": dweight[direction:], "dbias": dbias[direction:]}
            self.gradients[direction > 0](grid, values)
        return dx, dweight.sum(1), dbias.sum(1)
