"""Measurement of a device's `Profile`, the memory that it takes apart from tensors.

Single convolutions show the workspace and the code of the device's library, a small network the overhead of a
process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.mixers import LAYERS, VoxelMixer
from nnunet_mamba.io.cpu import read_cpu_name
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.memory.simulate import TrainingStep, nnunet_loss, random_batch, simulate
from nnunet_mamba.networks.family import create_network
from nnunet_mamba.ops.backends import choose_backend

EXACT_MALLOC = {  # for glibc: each tensor has its own pages, which go back when it is freed
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_ARENA_MAX": "1",
}
SMALL: dict[str, Any] = {  # sizes of a network of a few MiB
    "input_channels": 1,
    "num_classes": 3,
    "features_per_stage": (16, 32, 64),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "kernel_sizes": ((3, 3, 3),) * 3,
    "deep_supervision": True,
}
SMALL_BATCH: dict[str, Any] = {"batch": 2, "channels": 1, "classes": 3, "patch": (16, 32, 32)}


def measure_profile(device: str, precision: str = "fp32", threads: int | None = None) -> Profile:
    """Measure a device in a process of its own, whose malloc returns what is freed.

    Raises ValueError if the device is not available, or if the measurement fails.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here; measure where it is, and copy the file.")
    threads = threads or torch.get_num_threads()
    command = [sys.executable, "-m", __name__, device, precision, str(threads)]
    for _ in range(2):  # the first compiles kernels for their caches, whose memory must not count
        done = subprocess.run(
            command,
            env={**os.environ, **EXACT_MALLOC},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(
                f"Measuring {device} ended with: {last.removeprefix('ValueError: ')} Expected is a "
                f"Linux machine with that device free; measure on one, and copy the file."
            )
    return Profile(**json.loads(done.stdout))


def _measure_here(name: str, precision: str, threads: str) -> Profile:
    """Measure a device in this process."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    device = torch.device(name)
    load_operators(device, precision)
    workspace = measure_workspace(device)
    kernel_bytes = measure_kernel(device)
    overhead_bytes = measure_overhead(device, precision, workspace, kernel_bytes)
    backend, description = choose_backend(None, name), describe_device(device)
    return Profile(name, description, precision, backend, workspace, overhead_bytes, kernel_bytes)


def load_operators(device: torch.device, precision: str) -> None:
    """Run a layer of every kind of mixer, and build nnU-Net's loss and an optimizer: what they load must not
    count for a training step."""
    x = torch.randn(2, 32, 16, 24, 16, device=device, requires_grad=True)
    for kind in LAYERS:
        mixer = VoxelMixer(32, 3, kind=kind).to(device)
        with torch.autocast(device.type, torch.float16, enabled=precision == "fp16"):
            y = mixer(x)
        y.backward(torch.ones_like(y))
    nnunet_loss(1)
    torch.optim.SGD([x], 1e-2)  # imports torch._dynamo


def describe_device(device: torch.device) -> str:
    """Return hardware, threads and torch's version."""
    n = torch.get_num_threads()
    where = f"{read_cpu_name()}, {n} thread{'s' if n > 1 else ''}"
    where = torch.cuda.get_device_name() if device.type == "cuda" else where
    return f"{where}; torch {version('torch')}"


def peak_bytes(device: torch.device, call: Callable[[], Any]) -> int:
    """Measure the peak memory of `call` beyond that before it: of torch's allocations on CUDA, of the process
    on the CPU, where freed memory must go back at once (see `EXACT_MALLOC`)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = resident_bytes(reset=True)["VmRSS"]
    call()
    return resident_bytes()["VmHWM"] - before


def allocated_bytes(device: torch.device) -> int:
    """Return the bytes that torch has allocated on CUDA, or that the process takes on the CPU."""
    return torch.cuda.memory_allocated() if device.type == "cuda" else resident_bytes()["VmRSS"]


def resident_bytes(*, reset: bool = False) -> dict[str, int]:
    """Return VmRSS, resident now, and VmHWM, the peak since the last reset. Linux only."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"The peak memory of a process is measured on Linux only ({error}).") from error
    fields = [line.split() for line in lines if line.startswith(("VmRSS", "VmHWM"))]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def measure_workspace(device: torch.device) -> dict[str, float]:
    """Measure the factors of `workspace_of` on convolutions whose weights are small beside their input."""
    same = nn.Conv3d(32, 32, 3, padding=1).to(device)
    double = nn.ConvTranspose3d(32, 32, 2, 2).to(device)
    x = torch.randn(2, 32, 48, 48, 48, device=device, requires_grad=True)
    small = torch.randn(2, 32, 24, 24, 24, device=device)
    size = x.numel() * x.element_size()
    return {
        "conv_forward": max(0.0, _beyond_result(device, lambda: same(x), size) / size),
        "conv_transposed": max(0.0, _beyond_result(device, lambda: double(small), size) / size),
        "conv_backward": max(0.0, _backward_workspace(device, same, x) / (2 * size)),
    }


def _beyond_result(device: torch.device, call: Callable[[], Tensor], result_bytes: int) -> int:
    call()  # the first call loads code
    return peak_bytes(device, call) - result_bytes


def _backward_workspace(device: torch.device, layer: nn.Module, x: Tensor) -> int:
    y = layer(x)
    ones = torch.ones_like(y)

    def backward() -> Any:
        return torch.autograd.grad(y, [x, *layer.parameters()], ones, retain_graph=True)

    backward()
    return peak_bytes(device, backward) - x.numel() * x.element_size()


def measure_kernel(device: torch.device) -> int:
    """Measure the bytes that remain after a convolution of new sizes, forward or backward."""

    def convolve(channels: int) -> None:
        x = torch.randn(2, channels, 8, 8, 8, device=device, requires_grad=True)
        nn.Conv3d(channels, channels, 3, padding=1).to(device)(x).sum().backward()

    convolve(8)
    convolve(176)  # the largest first, so that its tensors do not count
    channels = range(16, 176, 16)
    before = allocated_bytes(device)
    for n in channels:
        convolve(n)
    return max(0, allocated_bytes(device) - before) // (2 * len(channels))


def measure_overhead(
    device: torch.device, precision: str, workspace: Mapping[str, float], kernel_bytes: int
) -> int:
    """Measure the bytes that the first training steps take beyond those of their simulation."""
    with torch.device("meta"):
        fake = create_network("mm_unet", **SMALL)
    step = simulate(fake, **SMALL_BATCH, precision=precision, workspace=workspace, device=device.type)

    def train() -> None:
        network = create_network("mm_unet", **SMALL).to(device)
        training = TrainingStep(network, *random_batch(network, **SMALL_BATCH, device=device), precision)
        training.step()
        training.step()

    return max(0, peak_bytes(device, train) - step.peak.total() - step.kernels * kernel_bytes)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measure_here(*sys.argv[1:]))))
