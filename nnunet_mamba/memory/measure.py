"""Measure a device's `Profile`; a minute in all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_mamba.memory.measure_memory import (
    EXACT_MALLOC,
    measure_kernel,
    measure_overhead,
    measure_scratch,
)
from nnunet_mamba.memory.measure_time import LAYERS, Case, measure_seconds
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.memory.training import nnunets_loss
from nnunet_mamba.ops.backends import choose_backend


def measure_profile(device: str, precision: str = "fp32", threads: int | None = None) -> Profile:
    """Times in a process of their own, memory in another, whose malloc returns what is freed.

    Raises ValueError if the device is not here, or does not let itself be measured.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here; measure where it is, and copy the file.")
    threads = threads or torch.get_num_threads()
    parts: dict[str, Any] = {}
    for part, environment in (("seconds", {}), ("memory", EXACT_MALLOC)):
        command = [sys.executable, "-m", __name__, part, device, precision, str(threads)]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(
                f"Measuring {part} on {device} ended with: {last.removeprefix('ValueError: ')} Expected is a "
                f"Linux machine with that device free; measure on one, and copy the file."
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
    Case(*LAYERS["mamba"], device, precision, backward=True).run()  # loads code, which is no step's memory
    nnunets_loss(1)
    scratch = measure_scratch(device)
    kernel = measure_kernel(device)
    overhead = measure_overhead(device, precision, scratch, kernel)
    return {"scratch": scratch, "kernel_bytes": kernel, "overhead_bytes": overhead}


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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_part(*sys.argv[1:])))
