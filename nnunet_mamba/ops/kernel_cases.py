"""Small calls of the operators that the GPU's self-check compares with the torch backend in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops.backends import force_backend
from nnunet_mamba.ops.linear_attention import multi_directional_linear_attention
from nnunet_mamba.ops.scan import multi_directional_conv1d, multi_directional_scan

SCAN = ("y", "du", "ddelta", "dA", "dB", "dC", "dD", "dz", "dbias")
ATTENTION = ("y", "dvalues", "dlog_decay", "dkeys", "dqueries")
CONVOLUTION = ("y", "dx", "dweight", "dbias")


@dataclass(frozen=True)
class KernelCase:
    """Scan of (directions, batch, length, channels, states); with `heads`, linear attention with the channels
    of all heads; with `taps`, a convolution of one x for all.

    A small GPU, of one multiprocessor, is filled by a single direction of a scan: directions are launched one
    after the other, and add to the memory, as those of large layers do on a large GPU. In linear attention a
    program takes several of a group's heads.
    """

    directions: int
    batch: int
    length: int
    channels: int
    states: int = 16
    groups: int = 1
    taps: int = 0
    heads: int = 0
    shared: bool = False  # one u, or one sequence of values, for all directions
    permuted: bool = False  # tokens, in an order of its own for each direction
    small_gpu: bool = False
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        what = f"convolution with {self.taps} taps" if self.taps else f"scan with {self.states} states"
        what = f"linear attention of {self.heads} heads with {self.states} states" if self.heads else what
        sizes = f"{self.directions} direction(s), batch {self.batch}, {self.length} tokens"
        sizes += f", {self.channels} channels"
        more = [f"{self.groups} groups"] * (self.groups > 1) + ["shared"] * self.shared
        more += ["permuted"] * self.permuted + ["as on a small GPU"] * self.small_gpu
        return ", ".join([what, sizes, *more, str(self.dtype)[6:]])

    @property
    def results(self) -> tuple[str, ...]:
        """Return the names of the output and the gradients."""
        return CONVOLUTION if self.taps else ATTENTION if self.heads else SCAN


FEW = (
    KernelCase(1, 2, 131, 40),
    KernelCase(2, 1, 300, 72, 5, permuted=True, dtype=torch.float16),
    KernelCase(2, 1, 600, 64, 20, groups=2, small_gpu=True),
    KernelCase(2, 1, 300, 200, shared=True, small_gpu=True, dtype=torch.float16),
    KernelCase(1, 2, 131, 40, taps=4),
    KernelCase(2, 1, 67, 72, taps=4, permuted=True, dtype=torch.float16),
    KernelCase(2, 1, 150, 160, 40, groups=2, heads=4, permuted=True),
    KernelCase(2, 2, 70, 48, 16, heads=3, shared=True, dtype=torch.float16),
)
MANY = (
    *FEW,
    KernelCase(2, 1, 5000, 128),
    KernelCase(2, 1, 5000, 128, dtype=torch.float16),
    KernelCase(4, 2, 784, 96, shared=True, permuted=True, dtype=torch.bfloat16),
    KernelCase(1, 1, 300, 64, states=64),
    KernelCase(12, 1, 120, 33, states=3, permuted=True),
    KernelCase(1, 1, 1, 1, states=1),
    KernelCase(4, 2, 784, 96, taps=3, permuted=True, dtype=torch.bfloat16),
    KernelCase(2, 1, 5000, 640, 32, heads=8, shared=True),
    KernelCase(1, 1, 300, 512, 256, heads=2),
    KernelCase(2, 1, 300, 384, 32, heads=24, small_gpu=True),
    KernelCase(4, 2, 784, 160, 64, heads=2, permuted=True, dtype=torch.bfloat16),
    KernelCase(1, 1, 1, 1, 1, heads=1),
)


def compute_results(case: KernelCase, device: torch.device, backend: str) -> dict[str, Tensor]:
    """Return outputs and gradients by name, in float64 for the torch backend; all get the same numbers."""
    random = torch.Generator().manual_seed(0)
    k, b, length, d, n, g = case.directions, case.batch, case.length, case.channels, case.states, case.groups
    exact = torch.float64 if backend == "torch" else None

    def normal(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=random).to(case.dtype)
        return values.to(device, exact or case.dtype).requires_grad_()

    def negative(*shape: int) -> Tensor:
        values = -0.2 - 3 * torch.rand(shape, generator=random)
        return values.to(device, exact or torch.float32).requires_grad_()

    permutations = [torch.randperm(length, generator=random) for _ in range(k)]
    indices = torch.stack(permutations).to(device, torch.int32) if case.permuted else None
    shared = 1 if case.shared or case.taps else k
    if case.taps:
        inputs = [normal(shared, b, length, d), normal(k, d, case.taps), normal(k, d)]
        compute: Callable[..., Tensor] = partial(multi_directional_conv1d, activation="silu")
    elif case.heads:
        inputs = [normal(shared, b, length, case.heads, d // case.heads), negative(k, b, length, case.heads)]
        inputs += [normal(k, b, length, g, n), normal(k, b, length, g, n)]
        compute = multi_directional_linear_attention
    else:
        inputs = [normal(shared, b, length, d), normal(k, b, length, d), negative(k, d, n)]
        inputs += [normal(k, b, g, length, n), normal(k, b, g, length, n)]
        inputs += [normal(k, d), normal(b, length, d), normal(k, d)]
        compute = partial(multi_directional_scan, delta_softplus=True)
    with force_backend(backend), _of_one_multiprocessor(case.small_gpu and backend == "triton"):
        y = compute(*inputs, indices=indices, reverse=[direction % 2 == 1 for direction in range(k)])
        dy = torch.randn(y.shape, generator=random).to(y.device, y.dtype)
        gradients = torch.autograd.grad(y, inputs, dy)
    return dict(zip(case.results, (y.detach(), *gradients), strict=True))


@contextmanager
def _of_one_multiprocessor(really: bool) -> Iterator[None]:
    """Make Triton's plans inside for a GPU of one multiprocessor, and forget them after."""
    if not really:
        yield
        return
    from nnunet_mamba.ops import triton_linear_attention, triton_scan

    modules: tuple[Any, ...] = (triton_scan, triton_linear_attention)
    before = [(module, module.processors, module._plans) for module in modules]
    for module in modules:
        module.processors, module._plans = lambda device: 1, {}
    try:
        yield
    finally:
        for module, processors, plans in before:
            module.processors, module._plans = processors, plans
