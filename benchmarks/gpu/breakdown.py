"""Breakdown of the time of scans, linear attentions and convolutions on a GPU, and mamba_ssm's beside them.

    python benchmarks/gpu/breakdown.py RESULT.json [--dry: one small size, on the CPU]

alone_ms     from a call until the GPU has finished it, the median
queued_ms    of a call of many in a row: the GPU's time, or the CPU's for the launches if that is longer
kernels_us   of the GPU by kernel, the ten longest of forward and backward

attention      the operator alone: heads of 64 channels, 32 states
mamba2         Mamba-2's recurrence: that with steps, rates and skips
mamba2_layer   the whole layer, of half as many channels outside

mamba_ssm's functions are on tensors as they like them: channels first for Mamba's scan, one direction, no
copies. A measurement that fails is recorded as its error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba import available_backends
from nnunet_mamba.blocks.mamba2 import Mamba2, input_dependent_attention
from nnunet_mamba.ops import (
    multi_directional_conv1d,
    multi_directional_linear_attention,
    multi_directional_scan,
)
from nnunet_mamba.ops.backends import force_backend
from nnunet_mamba.scan_order import ScanDirection

SIZES = [  # directions, batch, tokens, channels
    (2, 1, 48 * 192 * 192, 64),
    (2, 2, 32 * 80 * 80, 64),
    (2, 2, 32 * 80 * 80, 128),
    (2, 2, 40 * 56 * 40, 64),
    (1, 2, 5000, 512),
    (2, 2, 5000, 512),
    (1, 2, 700, 512),
    (2, 2, 700, 512),
    (4, 8, 56 * 56, 192),
]
HEADDIM, STATES = 64, 32  # of linear attention
Call = tuple[Callable[[], Tensor], list[Tensor]]  # forward, and what wants gradients


def alone(call: Callable[[], Any], wait: Callable[[], None], repeats: int = 15) -> float:
    times = []
    for _ in range(repeats + 3):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[3:])


def queued(call: Callable[[], Any], wait: Callable[[], None], repeats: int = 20) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return 1e3 * (time.perf_counter() - start) / repeats


def by_kernel(call: Callable[[], Any], repeats: int = 5) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.device_time_total)[:10]
    return {event.key[:60]: round(event.device_time_total / repeats, 1) for event in events}


class Problem:
    """Random tensors of one size."""

    def __init__(self, size: tuple[int, ...], dtype: torch.dtype, device: str):
        self.directions, self.batch, self.tokens, self.channels = size
        self.dtype, self.device = dtype, device

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype).requires_grad_()

    def rates(self, *shape: int) -> Tensor:
        return (-16 * torch.rand(shape, device=self.device)).requires_grad_()

    def scan(self) -> Call:
        k, b, length, d = self.directions, self.batch, self.tokens, self.channels
        inputs = [self.random(k, b, length, d), self.random(k, b, length, d), self.rates(k, d, 16)]
        inputs += [self.random(k, b, 1, length, 16), self.random(k, b, 1, length, 16)]
        inputs += [self.random(k, d, dtype=torch.float32), self.random(b, length, d)]
        inputs += [self.random(k, d, dtype=torch.float32)]
        return lambda: multi_directional_scan(*inputs, True, reverse=self.reverse), inputs  # type: ignore[arg-type]

    def mamba_ssm(self) -> Call:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        b, length, d = self.batch, self.tokens, self.channels
        u, delta, z = (self.random(b, d, length) for _ in range(3))
        B, C = (self.random(b, 1, 16, length) for _ in range(2))
        D, bias = (self.random(d, dtype=torch.float32) for _ in range(2))
        inputs = [u, delta, self.rates(d, 16), B, C, D, z, bias]
        return lambda: selective_scan_fn(*inputs, True), inputs

    def convolution(self) -> Call:
        k, d = self.directions, self.channels
        inputs = [self.random(1, self.batch, self.tokens, d), self.random(k, d, 4), self.random(k, d)]
        return lambda: multi_directional_conv1d(*inputs, "silu", reverse=self.reverse), inputs  # type: ignore[arg-type]

    @property
    def reverse(self) -> list[bool]:
        return [direction % 2 == 1 for direction in range(self.directions)]

    def attention(self) -> Call:
        k, b, length, h = self.directions, self.batch, self.tokens, self.channels // HEADDIM
        log_decay = (-torch.rand(k, b, length, h, device=self.device)).requires_grad_()
        inputs = [self.random(k, b, length, h, HEADDIM), log_decay]
        inputs += [self.random(k, b, length, 1, STATES), self.random(k, b, length, 1, STATES)]
        return lambda: multi_directional_linear_attention(*inputs, reverse=self.reverse), inputs

    def mamba2(self) -> Call:
        k, b, length, h = self.directions, self.batch, self.tokens, self.channels // HEADDIM
        u, dt = self.random(k, b, length, self.channels + 2 * STATES), self.random(b, length, h)
        own = [self.random(k, 1, 1, h, dtype=torch.float32) for _ in range(3)]  # dt_bias, A_log, D
        inputs = [u, dt, *own]
        return lambda: input_dependent_attention(*inputs, HEADDIM, 1, None, self.reverse), inputs  # type: ignore[arg-type]

    def mamba2_of_mamba_ssm(self) -> Call:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        b, length, h = self.batch, self.tokens, self.channels // HEADDIM
        x, dt = self.random(b, length, h, HEADDIM), self.random(b, length, h)
        B, C = (self.random(b, length, 1, STATES) for _ in range(2))
        D, bias = (self.random(h, dtype=torch.float32) for _ in range(2))
        inputs = [x, dt, self.rates(h), B, C, D, bias]

        def call() -> Tensor:
            return mamba_chunk_scan_combined(*inputs[:5], chunk_size=256, D=D, dt_bias=bias, dt_softplus=True)

        return call, inputs

    def mamba2_layer(self) -> Call:
        directions = tuple(ScanDirection((0,), reverse=reverse) for reverse in self.reverse)
        layer = Mamba2(self.channels // 2, directions, d_state=STATES, headdim=HEADDIM)
        layer = layer.to(self.device, self.dtype)
        tokens = self.random(self.batch, self.tokens, self.channels // 2)
        return lambda: layer(tokens, (self.tokens,)), [tokens, *layer.parameters()]

    def measure(self, what: str) -> dict[str, Any]:
        """Measure with our Triton kernels on a GPU, whatever their self-check says."""
        with force_backend("triton" if self.device == "cuda" else None):
            return self._measure(what)

    def _measure(self, what: str) -> dict[str, Any]:
        forward, inputs = getattr(self, what)()
        dy = torch.ones_like(forward())

        def both() -> Any:
            return torch.autograd.grad(forward(), inputs, dy)

        cuda = self.device == "cuda"
        wait = torch.cuda.synchronize if cuda else lambda: None
        with torch.no_grad():
            row = {"forward_alone_ms": alone(forward, wait), "forward_queued_ms": queued(forward, wait)}
        row |= {"both_alone_ms": alone(both, wait), "both_queued_ms": queued(both, wait)}
        return {**row, "kernels_us": by_kernel(both)} if cuda else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    device, sizes = ("cpu", [(2, 1, 300, 64)]) if args.dry else ("cuda", SIZES)
    whats = ["scan", "convolution", "attention", "mamba2", "mamba2_layer"]
    whats += ["mamba_ssm"] * (available_backends()["mamba_ssm"] == "ok")
    whats += ["mamba2_of_mamba_ssm"] * (find_spec("mamba_ssm") is not None and not args.dry)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        for dtype in (torch.float32, torch.float16):
            for what in whats:
                row = {"what": what, "size": size, "dtype": str(dtype)[6:]}
                try:
                    row |= Problem(size, dtype, device).measure(what)
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {error}"[:400]
                rows.append(row)
                print(json.dumps(row), flush=True)
                args.result.write_text(json.dumps(rows, indent=1) + "\n")
                if device == "cuda":
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
