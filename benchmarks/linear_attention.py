"""Time Mamba-2 against Mamba-1, forward and backward: scans on every usable backend, and whole layers.

    python benchmarks/linear_attention.py --threads 1 --record benchmarks/results/linear_attention_cpu
    python benchmarks/linear_attention.py --device cuda --record benchmarks/results/linear_attention_cuda

Sizes are a batch, channels C and tokens of a layer: U-Mamba2's bottleneck on the abdomen plan and on a larger
one, and a long stage of few channels. Mamba-1 has E = 2 C channels of 16 states, Mamba-2 as many in heads of
32 states (`choose_headdim`). A layer has all of its projections, its convolution and its norm. mLSTM's heads,
with as many keys as values, are timed alone: there is nothing of Mamba-1 to compare.

Milliseconds, best of the rounds; all take turns within each round, so that a change of the machine's load
meets them alike. `ratio` is the time of forward and backward over that of Mamba-1 on the same size (its
default backend).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from records import heading, publish, surroundings
from torch import Tensor

from nnunet_mamba import available_backends
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.mamba2 import Mamba2, choose_headdim
from nnunet_mamba.ops import multi_directional_linear_attention, multi_directional_scan
from nnunet_mamba.scan_order import scan_order

SIZES = {  # batch, channels, tokens
    "U-Mamba2's bottleneck, abdomen": (2, 320, 210),
    "a long bottleneck": (1, 320, 6720),
    "a long stage": (1, 32, 89600),
}
HEADS = {"mLSTM's heads": (1, 6720, 4, 128, 4, 128)}  # batch, tokens, heads, channels, groups, keys
STATES = {"Mamba": 16, "Mamba-2": 32}
ELSEWHERE = {"cpu": ("triton", "mamba_ssm", "reference"), "cuda": ("numba", "mamba_ssm", "reference")}
Timed = Callable[[], Tensor]


def random(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, device=device, requires_grad=True)


def scan(b: int, channels: int, length: int, device: str) -> tuple[Timed, list[Tensor]]:
    """Mamba-1's scan in its layer's size, and its inputs."""
    d, n = 2 * channels, STATES["Mamba"]
    inputs = {
        "u": random(1, b, length, d, device=device),
        "delta": random(1, b, length, d, device=device),
        "A": torch.rand(1, d, n, device=device).neg().requires_grad_(),
        "B": random(1, b, 1, length, n, device=device),
        "C": random(1, b, 1, length, n, device=device),
        "D": random(1, d, device=device),
        "z": random(b, length, d, device=device),
    }
    call = partial(multi_directional_scan, **inputs, delta_softplus=True, reverse=[False])
    return call, list(inputs.values())


def attention(
    b: int, length: int, h: int, p: int, g: int, n: int, device: str, backend: str
) -> tuple[Timed, list[Tensor]]:
    """Linear attention of heads of this size, and its inputs."""
    log_decay = torch.rand(1, b, length, h, device=device).neg().requires_grad_()
    inputs = {
        "values": random(1, b, length, h, p, device=device),
        "log_decay": log_decay,
        "keys": random(1, b, length, g, n, device=device),
        "queries": random(1, b, length, g, n, device=device),
    }
    call = partial(multi_directional_linear_attention, **inputs, reverse=[False], backend=backend)
    return call, list(inputs.values())


def layer(kind: type[Any], b: int, channels: int, length: int, device: str) -> tuple[Timed, list[Tensor]]:
    """A whole layer, its input and parameters."""
    torch.manual_seed(0)
    mixer = kind(channels, scan_order("uni", 2)).to(device)
    tokens = random(b, length, channels, device=device)
    return partial(mixer, tokens, (1, length)), [tokens, *mixer.parameters()]


def candidates(size: tuple[int, int, int], device: str, backends: list[str]) -> dict[str, Any]:
    """What takes part on a size of `SIZES`."""
    b, channels, length = size
    p = choose_headdim(2 * channels)
    heads = (b, length, 2 * channels // p, p, 1, STATES["Mamba-2"])
    return {
        "Mamba's scan": scan(*size, device),
        **{f"linear attention, {name}": attention(*heads, device, name) for name in backends},
        "Mamba layer": layer(Mamba, *size, device),
        "Mamba-2 layer": layer(Mamba2, *size, device),
    }


def measure(call: Timed, inputs: list[Tensor]) -> tuple[float, float]:
    """Milliseconds of one forward and one backward."""
    wait = torch.cuda.synchronize if inputs[0].is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    y = call()
    wait()
    middle = time.perf_counter()
    torch.autograd.grad(y, inputs, torch.ones_like(y))
    wait()
    return 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)


def compare(taking_part: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Best milliseconds of each, and the ratio to what it is compared with, if that takes part."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in taking_part}
    for _ in range(rounds + 1):  # the first compiles and warms up
        for name, (call, inputs) in taking_part.items():
            times[name].append(measure(call, inputs))
    rows = []
    for name, measured in times.items():
        forward, backward = (min(column) for column in zip(*measured[1:], strict=True))
        rows.append({"what": name, "forward_ms": forward, "backward_ms": backward})
    sums = {row["what"]: row["forward_ms"] + row["backward_ms"] for row in rows}
    for row in rows:
        other = sums.get("Mamba layer" if row["what"].endswith("layer") else "Mamba's scan")
        row["ratio"] = sums[row["what"]] / other if other else None
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| size | what | forward ms | backward ms | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        milliseconds = f"{row['forward_ms']:.2f} | {row['backward_ms']:.2f}"
        lines.append(f"| {row['size']} | {row['what']} | {milliseconds} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    usable = [name for name, state in available_backends().items() if state == "ok"]
    backends = [name for name in usable if name not in ELSEWHERE[args.device]]
    record = {**surroundings(args.device), "rounds": args.rounds, "rows": []}
    for name, size in SIZES.items():
        rows = compare(candidates(size, args.device, backends), args.rounds)
        record["rows"] += [{"size": f"{name} {size}", **row} for row in rows]
    for name, heads in HEADS.items():
        alone = {f"linear attention, {b}": attention(*heads, args.device, b) for b in backends}
        record["rows"] += [{"size": f"{name} {heads}", **row} for row in compare(alone, args.rounds)]
    page = f"{heading(record)} Best of {args.rounds} rounds.\n\n{table(record['rows'])}\n"
    publish(record, page, args.record)


if __name__ == "__main__":
    main()
