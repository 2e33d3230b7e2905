"""Time selective scans, forward and backward, for every usable backend, side by side in one run.

    python benchmarks/scan.py --threads 1 --native --record benchmarks/results/scan_cpu_1_thread
    python benchmarks/scan.py --device cuda --record benchmarks/results/scan_cuda

CPU sizes are those of the networks: U-Mamba's stages of 89,600, 11,200 and 700 tokens at batch 2 (16 states),
and VMamba's 56 x 56 tokens. CUDA sizes are full resolution and deep stages of published plans, in float16 and
in float32, as the networks call it. K directions share a gate: memory order, its reverse, and those of other
axes (at most 12 in 3D, 4 in 2D). With --native, the same scan by hand in C++ (native_scan.cpp, built with g++
here and now) takes part, on memory that it was given beforehand. The backend mamba_ssm runs once per
direction, with copies there and back.

Milliseconds, best of the rounds; all take turns within each round, so that a change of the machine's load
meets them alike. Peak memory is that of forward and backward beyond their arguments (CUDA only). GB/s counts
each argument and result once. The floor is the time that those bytes, or one exponential per token, channel
and state (two in backward), would take if that were all: the larger of the two, at rates measured in the run.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from native import NativeScan, build
from rates import bandwidth, exponentials
from records import heading, surroundings, write

from nnunet_mamba import available_backends
from nnunet_mamba.ops import multi_directional_scan
from nnunet_mamba.ops.backends import force_backend
from nnunet_mamba.scan_order import scan_order

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
Size = tuple[int, int, tuple[int, ...], int]  # batch, channels, grid, states
SIZES: dict[str, dict[str, Size]] = {
    "cpu": {
        "S3": (2, 512, (7, 10, 10), 16),
        "S2": (2, 128, (20, 28, 20), 16),
        "V": (8, 192, (56, 56), 16),
        "S1": (2, 64, (40, 56, 40), 16),
    },
    "cuda": {
        "48x192x192, 64 channels": (1, 64, (48, 192, 192), 16),
        "32x80x80, 64 channels": (2, 64, (32, 80, 80), 16),
        "32x80x80, 128 channels": (2, 128, (32, 80, 80), 16),
        "40x56x40, 64 channels": (2, 64, (40, 56, 40), 16),
        "16x20x16, 512 channels": (2, 512, (16, 20, 16), 16),
        "7x10x10, 512 channels": (2, 512, (7, 10, 10), 16),
    },
}
SLOW = ("reference", "torch")
LONGEST = {"reference": 1000, "torch": 100_000}  # tokens; longer would take minutes


def arguments(size: Size, k: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return arguments of `multi_directional_scan`; all tensors require gradients."""
    torch.manual_seed(0)
    b, d, grid, n = size
    length = math.prod(grid)

    def random(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=kind)

    tensors = {
        "u": random(k, b, length, d),
        "delta": random(k, b, length, d),
        "A": -torch.rand(k, d, n, device=device) * 16,
        "B": random(k, b, 1, length, n),
        "C": random(k, b, 1, length, n),
        "D": torch.ones(k, d, device=device),
        "z": random(b, length, d),
        "delta_bias": random(k, d, kind=torch.float32) - 4,
    }
    directions = scan_order("raster", len(grid))[:k]
    memory_order = torch.arange(length, dtype=torch.int32)
    tables = [direction.token_indices(grid) for direction in directions]
    indices = None
    if any(table is not None for table in tables):
        indices = torch.stack([memory_order if table is None else table for table in tables]).to(device)
    wanting = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    return {
        **wanting,
        "indices": indices,
        "reverse": [direction.reverse for direction in directions],
        "delta_softplus": True,
    }


def measure(call: dict[str, Any], dy: torch.Tensor, backend: str) -> tuple[float, float, float]:
    """Return milliseconds of one forward and one backward, and MiB of memory beyond their arguments."""
    cuda = dy.is_cuda
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    wait()
    start = time.perf_counter()
    with force_backend(backend):  # whatever the GPU's self-check says
        y = multi_directional_scan(**call)
    wait()
    middle = time.perf_counter()
    torch.autograd.grad(y, [t for t in call.values() if torch.is_tensor(t) and t.requires_grad], dy)
    wait()
    end = time.perf_counter()
    memory = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else math.nan
    return 1e3 * (middle - start), 1e3 * (end - middle), memory


def compare(
    call: dict[str, Any], length: int, backends: list[str], rounds: int, library: ctypes.CDLL | None
) -> dict[str, dict[str, float]]:
    """Return the best forward and backward milliseconds by backend, and of C++ as "native"; peak memory."""
    dy = torch.ones_like(call["z"])
    usable = [name for name in backends if length <= LONGEST.get(name, length)]
    candidates: dict[str, Any] = {name: partial(measure, call, dy, name) for name in usable}
    if library and len(call["delta"]) == 1:
        native = NativeScan(library, _channels_first(call), torch.get_num_threads())
        candidates["native"] = lambda: (native.forward(), native.backward(), math.nan)
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):  # the first round compiles and warms up
        for name, candidate in candidates.items():
            if name not in SLOW or round_ < 4:
                times[name].append(candidate())
    keys = ("forward_ms", "backward_ms", "peak_mib")
    return {
        name: {key: min(column) for key, column in zip(keys, zip(*all_[1:], strict=True), strict=True)}
        for name, all_ in times.items()
    }


def _channels_first(call: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the one direction of a call as `selective_scan` has it."""
    own = {name: call[name][0] for name in ("u", "delta", "A", "D", "delta_bias")}
    own |= {name: call[name][0, :, 0] for name in ("B", "C")}
    sequences = {"u", "delta", "z", "B", "C"}
    return {k: t.mT if k in sequences else t for k, t in {**own, "z": call["z"]}.items()}


def least(size: Size, k: int, value: int) -> dict[str, float]:
    """Return the bytes and exponentials that forward and backward need; each argument and result, of `value`
    bytes, is counted once."""
    b, d, grid, n = size
    tokens = b * math.prod(grid)
    per_direction, shared, states = d * value, d * value, n * value
    return {
        "forward_bytes": tokens * (k * (2 * per_direction + 2 * states) + 2 * shared),  # u, delta, B, C; z, y
        "backward_bytes": tokens
        * (k * (4 * per_direction + 4 * states) + 3 * shared),  # and gradients; dy, dz
        "forward_exps": tokens * k * d * n,
        "backward_exps": 2 * tokens * k * d * n,
    }


def rated(found: dict[str, float], need: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    """Return GB/s and the share of the floor, of forward and backward together."""
    seconds = (found["forward_ms"] + found["backward_ms"]) / 1e3
    floors = [
        max(need[f"{part}_bytes"] / rates["bytes"], need[f"{part}_exps"] / rates["exps"])
        for part in ("forward", "backward")
    ]
    moved = need["forward_bytes"] + need["backward_bytes"]
    forward_share = floors[0] / (found["forward_ms"] / 1e3)
    return {"gb_per_s": moved / seconds / 1e9, "floor": sum(floors) / seconds, "forward_floor": forward_share}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| size (batch, channels, tokens, states) | dtype | directions | backend | forward ms | backward ms "
        "| over the best | peak MiB | GB/s | share of the floor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = "" if math.isnan(row["peak_mib"]) else f"{row['peak_mib']:.0f}"
        lines.append(
            f"| {row['size']} | {row['dtype']} | {row['directions']} | `{row['backend']}` "
            f"| {row['forward_ms']:.2f} | {row['backward_ms']:.2f} | {row['over_best']:.2f} "
            f"| {memory} | {row['gb_per_s']:.1f} | {row['floor']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--directions", type=int, nargs="+", help="default: 1 on the CPU; 1, 2, 4 and 8 on CUDA"
    )
    parser.add_argument("--sizes", nargs="+", help="names of them; default: the device's")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: float32; on CUDA float16, too")
    parser.add_argument("--native", action="store_true", help="C++ as well; needs g++")
    usable = [name for name, state in available_backends().items() if state == "ok"]
    parser.add_argument("--backends", nargs="+", choices=usable)
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    args = parser.parse_args()
    cuda, sizes = args.device == "cuda", SIZES[args.device]
    if args.sizes and not set(args.sizes) <= set(sizes):
        parser.error(f"--sizes {' '.join(args.sizes)}: choose from {', '.join(sizes)}.")
    sizes = {name: size for name, size in sizes.items() if not args.sizes or name in args.sizes}
    if cuda and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here.")
    torch.set_num_threads(args.threads)
    only_elsewhere = {"numba"} if cuda else {"triton", "mamba_ssm"}
    backends = args.backends or [name for name in usable if name not in only_elsewhere]
    library = build() if args.native else None
    rates = {"bytes": bandwidth(args.device), "exps": exponentials(args.device)}
    record = {**surroundings(args.device), "rounds": args.rounds, "rates_per_s": rates, "rows": []}
    directions = args.directions or ((1, 2, 4, 8) if cuda else (1,))
    dtypes = args.dtypes or (("float16", "float32") if cuda else ("float32",))
    for (name, size), dtype, k in product(sizes.items(), dtypes, directions):
        call = arguments(size, k, args.device, DTYPES[dtype])
        found = compare(call, math.prod(size[2]), backends, args.rounds, library)
        need = least(size, k, DTYPES[dtype].itemsize)
        best = min(result["forward_ms"] + result["backward_ms"] for result in found.values())
        label = f"{name} ({size[0]}, {size[1]}, {math.prod(size[2])}, {size[3]})"
        for backend, result in found.items():
            ratio = {"over_best": (result["forward_ms"] + result["backward_ms"]) / best}
            kind = {"size": label, "dtype": dtype, "directions": k, "backend": backend}
            record["rows"].append({**kind, **result, **ratio, **rated(result, need, rates)})
            print(table(record["rows"][-1:]).splitlines()[-1], flush=True)
        if args.record:  # after every size: what is measured stays, whatever comes
            write(args.record, record, describe(record))


def describe(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    rates = record["rates_per_s"]
    measured = f"{rates['bytes'] / 1e9:.0f} GB/s copied, {rates['exps'] / 1e9:.1f} G exponentials/s"
    return f"{heading(record)} Best of {record['rounds']} rounds; {measured}.\n\n{table(record['rows'])}\n"


if __name__ == "__main__":
    main()
