"""Measure a device's `Profile`: small layers, timed and weighed, a minute in all.

Times: every case is a layer's forward and backward pass, of which `work_of` says what it does; the seconds
per unit are those that fit all cases best, none of them negative. Memory: convolutions alone tell the scratch
of the device's library, a small network what a process takes beside its tensors.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.mixers import MambaMixer, MambaTransMixer
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.estimate.live_memory import LiveMemory
from nnunet_mamba.estimate.profile import Profile
from nnunet_mamba.estimate.simulate import simulate
from nnunet_mamba.estimate.training import Training, nnunets_loss, random_batch
from nnunet_mamba.estimate.work import UNITS, work_of
from nnunet_mamba.networks.family import create_network
from nnunet_mamba.ops.backends import choose_backend

Layer = Callable[[], nn.Module]
CASES: Mapping[str, tuple[Layer, tuple[int, ...]]] = {  # layer, shape of its input
    "conv3d 16": (partial(nn.Conv3d, 16, 16, 3, padding=1), (2, 16, 32, 48, 32)),
    "conv3d 32": (partial(nn.Conv3d, 32, 32, 3, padding=1), (2, 32, 16, 24, 16)),
    "conv3d 64": (partial(nn.Conv3d, 64, 64, 3, padding=1), (2, 64, 8, 12, 8)),
    "conv3d 128": (partial(nn.Conv3d, 128, 128, 3, padding=1), (2, 128, 4, 6, 4)),
    "conv3d 1x1": (partial(nn.Conv3d, 32, 16, 1), (2, 32, 32, 48, 32)),
    "conv2d 32": (partial(nn.Conv2d, 32, 32, 3, padding=1), (4, 32, 128, 128)),
    "conv2d 256": (partial(nn.Conv2d, 256, 256, 3, padding=1), (4, 256, 16, 16)),
    "transposed": (partial(nn.ConvTranspose3d, 32, 16, 2, 2), (2, 32, 16, 24, 16)),
    "depthwise": (partial(nn.Conv2d, 192, 192, 3, padding=1, groups=192), (4, 192, 32, 32)),
    "instance norm": (partial(nn.InstanceNorm3d, 16, affine=True), (2, 16, 32, 48, 32)),
    "instance norm, small": (partial(nn.InstanceNorm3d, 64, affine=True), (2, 64, 8, 12, 8)),
    "layer norm": (partial(nn.LayerNorm, 96), (4, 32, 32, 96)),
    "leaky relu": (nn.LeakyReLU, (2, 16, 32, 48, 32)),
    "linear": (partial(nn.Linear, 96, 384), (4, 1024, 96)),
    "linear, wide": (partial(nn.Linear, 768, 1536), (4, 16, 768)),
    "tiny": (nn.GELU, (2, 8)),
    "mamba": (partial(MambaMixer, 32, 3), (2, 32, 16, 24, 16)),
    "mamba, wide": (partial(MambaMixer, 128, 3), (2, 128, 4, 6, 4)),
    "mamba, many states": (partial(MambaTransMixer, 32, 3, d_state=64), (2, 32, 8, 24, 16)),
    "ss2d": (partial(SS2D, 96, order="HW,WH,-HW,-WH"), (4, 32, 32, 96)),
    "ss2d, wide": (partial(SS2D, 768, order="HW,WH,-HW,-WH"), (4, 4, 4, 768)),
}
MIN_SECONDS = 0.3  # per case


class Case:
    """A layer's forward pass on a random input, alone or with the backward pass."""

    def __init__(
        self, layer: Layer, shape: tuple[int, ...], device: torch.device, precision: str, backward: bool
    ):
        self.layer, self.backward, self.fp16 = layer().to(device), backward, precision == "fp16"
        self.x = torch.randn(shape, device=device, requires_grad=True)

    def run(self) -> None:
        with torch.autocast(self.x.device.type, torch.float16, enabled=self.fp16):
            y = self.layer(self.x)
        if self.backward:
            y.backward(torch.ones_like(y))
        if self.x.is_cuda:
            torch.cuda.synchronize()

    def work(self) -> Counter[str]:
        total: Counter[str] = Counter()

        def observe(func: Any, args: tuple[Any, ...], result: Any, works: bool) -> int:
            total.update(work_of(func, args, result, works))
            return 0

        with LiveMemory(observe):
            self.run()
        return total

    def seconds(self) -> float:
        """Median of the repetitions that MIN_SECONDS allow, three at least."""
        self.run()
        times: list[float] = []
        while len(times) < 3 or sum(times) < MIN_SECONDS:
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return median(times)


def measure_seconds(device: torch.device, precision: str) -> dict[str, float]:
    """Seconds per unit of work, by the least squares of relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    rows = []
    for layer, shape in CASES.values():
        for backward in (False, True):
            case = Case(layer, shape, device, precision, backward)
            work, seconds = case.work(), case.seconds()
            rows.append([work[unit] / seconds for unit in UNITS])
    matrix = np.array(rows)
    scale = matrix.max(axis=0)
    fitted, _ = nnls(matrix / scale, np.ones(len(rows)))
    return dict(zip(UNITS, (fitted / scale).tolist(), strict=True))


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


def describe(device: torch.device) -> str:
    n = torch.get_num_threads()
    where = f"{cpu_name()}, {n} thread{'s' if n > 1 else ''}"
    where = torch.cuda.get_device_name() if device.type == "cuda" else where
    return f"{where}; torch {version('torch')}"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure_overhead(device: torch.device, precision: str, scratch: Mapping[str, float]) -> int:
    """Bytes that a first training step takes beyond those of its simulation."""
    sizes: dict[str, Any] = {
        "input_channels": 1,
        "num_classes": 3,
        "features_per_stage": (16, 32, 64),
        "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((3, 3, 3),) * 3,
    }
    patch = (16, 32, 32)
    with torch.device("meta"):
        fake = create_network("mm_unet", **sizes, deep_supervision=True)
    step = simulate(
        fake, batch=2, channels=1, classes=3, patch=patch, precision=precision, scratch=scratch, device="cpu"
    )

    def train() -> None:
        network = create_network("mm_unet", **sizes, deep_supervision=True).to(device)
        training = Training(network, *random_batch(network, 2, 1, 3, patch, device), precision)
        training.step()
        training.step()

    return max(0, peak_bytes(device, train) - step.peak.total())


def measure_profile(device: str, precision: str = "fp32", threads: int | None = None) -> Profile:
    """Times in a process of their own, memory in another, whose malloc returns what is freed.

    Raises ValueError if the device is not here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here; measure where it is, and copy the file.")
    threads = threads or torch.get_num_threads()
    parts: dict[str, Any] = {}
    for part, environment in (("seconds", {}), ("memory", EXACT_MALLOC)):
        command = [sys.executable, "-m", __name__, part, device, precision, str(threads)]
        done = subprocess.run(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
        )
        parts |= json.loads(done.stdout)
    return Profile(device=device, precision=precision, **parts)


def _part(part: str, name: str, precision: str, threads: str) -> dict[str, Any]:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    device = torch.device(name)
    if part == "seconds":
        backend = choose_backend(None, name)
        return {
            "description": describe(device),
            "backend": backend,
            "seconds": measure_seconds(device, precision),
        }
    Case(*CASES["mamba"], device, precision, backward=True).run()  # loads code, which is no step's memory
    nnunets_loss(1)
    scratch = measure_scratch(device)
    return {"scratch": scratch, "overhead_bytes": measure_overhead(device, precision, scratch)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_part(*sys.argv[1:])))
