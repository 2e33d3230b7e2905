"""Time the causal convolution with SiLU against the memory traffic that it cannot do without.

    python benchmarks/conv.py --threads 1 --json benchmarks/results/conv_cpu_1_thread.json

Forward reads x and writes y: the bound is a copy of x. Backward reads x and dy and writes dx: the bound is
their sum. Both bounds are timed twice, into memory that is there already and into new memory, which every
call needs and which costs its page faults. Sizes as in `scan.py`, channels last, 4 taps; milliseconds, best
of the rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nnunet_mamba.ops import causal_conv1d

SIZES = {  # batch, channels, tokens
    "S3 (2, 512, 700)": (2, 512, 700),
    "S2 (2, 128, 11200)": (2, 128, 11200),
    "V (8, 192, 3136)": (8, 192, 3136),
    "S1 (2, 64, 89600)": (2, 64, 89600),
}


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def compare(b: int, d: int, length: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    x, dy, room = (torch.randn(b, length, d).transpose(1, 2) for _ in range(3))
    weight, bias = torch.randn(d, 4, requires_grad=True), torch.randn(d, requires_grad=True)
    wanted = x.clone().requires_grad_()
    y = causal_conv1d(wanted, weight, bias, "silu", backend="numba")

    def backward() -> object:
        return torch.autograd.grad(y, [wanted, weight, bias], dy, retain_graph=True)

    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: causal_conv1d(x, weight.detach(), bias.detach(), "silu", backend="numba"),
        "copy": lambda: room.copy_(x),
        "copy to new": x.clone,
        "backward": backward,
        "sum": lambda: torch.add(x, dy, out=room),
        "sum to new": lambda: x + dy,
    }
    times = [{name: milliseconds(call) for name, call in calls.items()} for _ in range(rounds + 1)]
    return {name: min(row[name] for row in times[1:]) for name in calls}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    for name, size in SIZES.items():
        results[name] = compare(*size, args.rounds)
        print(f"{name:20}", *(f"{what} {value:.2f}" for what, value in results[name].items()), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"threads": args.threads, "milliseconds": results}, indent=1) + "\n")
        print(f"-> {args.json}")


if __name__ == "__main__":
    main()
