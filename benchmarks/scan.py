"""Time one selective scan, forward and backward, for every usable backend, side by side in one run.

    python benchmarks/scan.py --threads 1 --native --json benchmarks/results/scan_cpu_1_thread.json

Sizes are those of the networks: U-Mamba's stages of 89,600, 11,200 and 700 tokens at batch 2 (16 states), and
VMamba's 56 x 56 tokens in 4 directions. Inputs are channels last. With --native, the same scan by hand in C++
(native_scan.cpp, built with g++ here and now) takes part, on memory that it was given beforehand.
Milliseconds of wall time, best of the rounds; all take turns within each round, so that a change of the
machine's load meets them alike.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import time
from functools import partial
from pathlib import Path

import numba
import torch
from native import NativeScan, build

from nnunet_mamba import available_backends, selective_scan

SIZES = {  # batch, channels, tokens, states
    "S3 (2, 512, 700, 16)": (2, 512, 700, 16),
    "S2 (2, 128, 11200, 16)": (2, 128, 11200, 16),
    "V (8, 192, 3136, 16)": (8, 192, 3136, 16),
    "S1 (2, 64, 89600, 16)": (2, 64, 89600, 16),
}
LONGEST_REFERENCE = 1000  # tokens; the definition is slow by intent


def arguments(b: int, d: int, length: int, n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    last = {name: torch.randn(b, length, d).transpose(1, 2) for name in ("u", "delta", "z")}
    states = {name: torch.randn(b, length, n).transpose(1, 2) for name in ("B", "C")}
    weights = {"A": -torch.rand(d, n) * 16, "D": torch.ones(d), "delta_bias": torch.randn(d) - 4}
    return {name: tensor.requires_grad_() for name, tensor in (last | states | weights).items()}


def measure(call: dict[str, torch.Tensor], dy: torch.Tensor, backend: str) -> tuple[float, float]:
    """Milliseconds of one forward and one backward."""
    start = time.perf_counter()
    y = selective_scan(**call, delta_softplus=True, backend=backend)
    middle = time.perf_counter()
    torch.autograd.grad(y, list(call.values()), dy)
    return 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)


def compare(
    size: tuple[int, int, int, int], rounds: int, backends: list[str], library: ctypes.CDLL | None
) -> dict[str, tuple[float, float]]:
    """Best forward and backward milliseconds by backend, and of C++ as "native"."""
    call = arguments(*size)
    dy = torch.ones_like(call["u"])
    candidates = {name: partial(measure, call, dy, name) for name in backends}
    if size[2] > LONGEST_REFERENCE:
        candidates.pop("reference", None)
    if library:
        native = NativeScan(library, call, torch.get_num_threads())
        candidates["native"] = lambda: (native.forward(), native.backward())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):  # the first round compiles and warms up
        for name, candidate in candidates.items():
            times[name].append(candidate())
    return {
        name: tuple(min(column) for column in zip(*all_[1:], strict=True)) for name, all_ in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--native", action="store_true", help="C++ as well; needs g++")
    usable = [name for name, state in available_backends().items() if state == "ok"]
    parser.add_argument("--backends", nargs="+", choices=usable, default=usable)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    library = build() if args.native else None
    yardstick = "native" if args.native else "numba"
    results = {}
    print(f"{'size (b, d, l, n)':26} {'backend':10} forward ms backward ms  over {yardstick}")
    for name, size in SIZES.items():
        results[name] = compare(size, args.rounds, args.backends, library)
        for backend, (forward, backward) in results[name].items():
            ratio = (forward + backward) / sum(results[name][yardstick])
            print(f"{name:26} {backend:10} {forward:10.1f} {backward:11.1f} {ratio:12.2f}", flush=True)
    if args.json:
        versions = {
            "torch": torch.__version__,
            "numba": numba.__version__,
            "python": platform.python_version(),
        }
        record = {"threads": args.threads, "machine": _cpu(), "versions": versions, "milliseconds": results}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + "\n")
        print(f"-> {args.json}")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    ]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


if __name__ == "__main__":
    main()
