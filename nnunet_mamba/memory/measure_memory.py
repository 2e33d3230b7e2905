"""Memory that a device takes beside the tensors: scratch of convolutions, their code, the process.

Convolutions alone tell the scratch of the device's library, a small network what a process takes besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.memory.simulate import simulate
from nnunet_mamba.memory.training import Training, random_batch
from nnunet_mamba.networks.family import create_network


def peak_bytes(device: torch.device, call: Callable[[], Any]) -> int:
    """The most that `call` had beyond what was there before: of torch's allocations on CUDA, of the process
    on the CPU, where freed memory must go back at once (see `EXACT_MALLOC`)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = resident_bytes(reset=True)["VmRSS"]
    call()
    return resident_bytes()["VmHWM"] - before


def held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else resident_bytes()["VmRSS"]


EXACT_MALLOC = {  # of glibc: each tensor has its own pages, and gives them back when it goes
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_ARENA_MAX": "1",
}


def resident_bytes(*, reset: bool = False) -> dict[str, int]:
    """VmRSS, resident now, and VmHWM, the most since the last reset. Linux only."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise ValueError(f"The peak memory of a process is measured on Linux only ({error}).") from error
    fields = [line.split() for line in lines if line.startswith(("VmRSS", "VmHWM"))]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def measure_scratch(device: torch.device) -> dict[str, float]:
    """Factors of `scratch_of`, of one convolution each whose weights are small beside its input."""
    same = nn.Conv3d(32, 32, 3, padding=1).to(device)
    double = nn.ConvTranspose3d(32, 32, 2, 2).to(device)
    x = torch.randn(2, 32, 48, 48, 48, device=device, requires_grad=True)
    small = torch.randn(2, 32, 24, 24, 24, device=device)
    size = x.numel() * x.element_size()
    return {
        "conv_forward": max(0.0, _beyond_result(device, lambda: same(x), size) / size),
        "conv_transposed": max(0.0, _beyond_result(device, lambda: double(small), size) / size),
        "conv_backward": max(0.0, _backward_scratch(device, same, x) / (2 * size)),
    }


def _beyond_result(device: torch.device, call: Callable[[], Tensor], result_bytes: int) -> int:
    call()  # the first call loads code
    return peak_bytes(device, call) - result_bytes


def _backward_scratch(device: torch.device, layer: nn.Module, x: Tensor) -> int:
    y = layer(x)
    ones = torch.ones_like(y)

    def backward() -> Any:
        return torch.autograd.grad(y, [x, *layer.parameters()], ones, retain_graph=True)

    backward()
    return peak_bytes(device, backward) - x.numel() * x.element_size()


SMALL: dict[str, Any] = {  # a network of a few MiB
    "input_channels": 1,
    "num_classes": 3,
    "features_per_stage": (16, 32, 64),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "kernel_sizes": ((3, 3, 3),) * 3,
    "deep_supervision": True,
}
SMALL_BATCH: dict[str, Any] = {"batch": 2, "channels": 1, "classes": 3, "patch": (16, 32, 32)}


def measure_kernel(device: torch.device) -> int:
    """Bytes that stay when a convolution of new sizes has run, forward or backward."""

    def convolve(channels: int) -> None:
        x = torch.randn(2, channels, 8, 8, 8, device=device, requires_grad=True)
        nn.Conv3d(channels, channels, 3, padding=1).to(device)(x).sum().backward()

    convolve(8)
    convolve(176)  # the largest has had its memory before
    channels = range(16, 176, 16)
    before = held_bytes(device)
    for n in channels:
        convolve(n)
    return max(0, held_bytes(device) - before) // (2 * len(channels))


def measure_overhead(
    device: torch.device, precision: str, scratch: Mapping[str, float], kernel_bytes: int
) -> int:
    """Bytes that first training steps take beyond those of their simulation."""
    with torch.device("meta"):
        fake = create_network("mm_unet", **SMALL)
    step = simulate(fake, **SMALL_BATCH, precision=precision, scratch=scratch, device=device.type)

    def train() -> None:
        network = create_network("mm_unet", **SMALL).to(device)
        training = Training(network, *random_batch(network, **SMALL_BATCH, device=device), precision)
        training.step()
        training.step()

    return max(0, peak_bytes(device, train) - step.peak.total() - step.kernels * kernel_bytes)
