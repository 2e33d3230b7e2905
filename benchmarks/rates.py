"""Rates at which this machine copies memory and computes exponentials: bounds on the speed of any scan."""

from __future__ import annotations

import time
from collections.abc import Callable

import numba
import torch

from nnunet_mamba.ops.simd import RowBuilder, row_operation

EXP_PER_CLOCK = 16  # of one NVIDIA multiprocessor
COPIED = 256 * 2**20  # bytes


def bandwidth(device: str) -> float:
    """Return bytes per second, read and written, of a copy by torch's threads."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / _best(lambda: target.copy_(source), device)


def exponentials(device: str) -> float:
    """Return exponentials per second: on a GPU its units times its highest clock; on a CPU measured with the
    kernels' own 2**x on data in the first-level cache, times torch's threads."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        clock_hz = 1e3 * getattr(properties, "clock_rate", 1_755_000)  # kHz; not in every torch
        return EXP_PER_CLOCK * properties.multi_processor_count * clock_hz
    values = torch.rand(1024)
    repeats = 20_000
    seconds = _best(lambda: _repeat(numba.float32(0), values.data_ptr(), len(values), repeats), device)
    return repeats * len(values) / seconds * torch.get_num_threads()


@row_operation
def _exp2(row: RowBuilder, width, x):
    for at in row.lanes(width):
        row.store(x, at, row.exp2(row.load(x, at)) - 1.0)


@numba.njit(nogil=True)
def _repeat(tag, address, width, repeats):
    for _ in range(repeats):
        _exp2(tag, width, address)


def _best(call: Callable[[], object], device: str, rounds: int = 5) -> float:
    """Return the seconds of the fastest of several runs, the first left out."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
