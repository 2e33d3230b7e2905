"""Training steps on the CPU with threads of any number that spin or sleep, beside other load.

    python benchmarks/threads.py --record benchmarks/results/threads

writes <record>.json and <record>.md. The load is that of processes in an endless loop, none to one per
processor; beside each load, every setting has processes of its own, and the settings take turns. Spinning
threads, one per processor, are those of nnU-Net's plain commands, sleeping ones those of all that
`nnunet-mamba` starts; `chosen` is what our trainers make of the plain commands: spinning threads, as many as
there are cores free at the start. `nnunet` is nnU-Net's own network on the same plan, that of the quickstart;
`scan` is the selective scan alone, forward and backward, on our own pool of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from networks import PLANS
from records import heading, publish, surroundings

from nnunet_mamba import create_network, selective_scan
from nnunet_mamba.io.cpu import PASSIVE_WAITING, choose_n_threads, count_usable_cpus
from nnunet_mamba.memory.simulate import TrainingStep, random_batch

NETWORKS = ("mm_unet", "nnunet", "scan")
SPIN = "while True: pass"


def settings() -> dict[str, dict[str, str]]:
    """What is compared: environment variables by name. Without OMP_NUM_THREADS the child chooses."""
    counts = sorted({1, count_usable_cpus()}, reverse=True)
    waits = {"spinning": {}, "sleeping": PASSIVE_WAITING}
    return {
        **{
            f"{n} thread{'s' * (n > 1)}{f', {wait}' * (n > 1)}": {"OMP_NUM_THREADS": str(n), **variables}
            for n in counts
            for wait, variables in waits.items()
            if n > 1 or wait == "sleeping"
        },
        "chosen": {},
    }


def measure(network: str, n_steps: int) -> dict[str, Any]:
    """The median seconds of a training step in this process, and its number of threads."""
    torch.set_num_threads(choose_n_threads())
    torch.manual_seed(0)
    step = scan_step() if network == "scan" else training_step(network)
    times = []
    for _ in range(n_steps + 1):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"threads": torch.get_num_threads(), "step_s": median(times[1:])}  # the first warms up


def training_step(network: str) -> Callable[[], object]:
    sizes = {key: value for key, value in PLANS["small"][3].items() if key != "batch"}
    model = create_network(network, **sizes, deep_supervision=True)
    job = (PLANS["small"][3]["batch"], 1, sizes["num_classes"], sizes["patch_size"], torch.device("cpu"))
    return TrainingStep(model, *random_batch(model, *job)).step


def scan_step() -> Callable[[], object]:
    """A scan of the size of MM-UNet's largest in the quickstart, four times over, forward and backward."""
    batch, channels, states, length = 2, 64, 16, 12_000
    u, delta = (torch.randn(batch, channels, length, requires_grad=True) for _ in range(2))
    b, c = (torch.randn(batch, states, length, requires_grad=True) for _ in range(2))
    a = -torch.rand(channels, states)
    return lambda: [selective_scan(u, delta, a, b, c, delta_softplus=True).sum().backward() for _ in range(4)]


def in_a_process(network: str, variables: dict[str, str], n_steps: int) -> dict[str, Any]:
    names = {"OMP_NUM_THREADS", *PASSIVE_WAITING}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, __file__, "--child", network, "--steps", str(n_steps)]
    done = subprocess.run(command, env={**clean, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def beside(n_busy: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per network and setting, beside so many busy processes; the settings take turns."""
    load = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n_busy)]
    try:
        runs = [
            {"busy": n_busy, "network": network, "setting": name, **in_a_process(network, given, args.steps)}
            for _ in range(args.repeats)
            for network in NETWORKS
            for name, given in settings().items()
        ]
    finally:
        for process in load:
            process.kill()
    for run in runs:
        print(json.dumps(run), flush=True)
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    names = list(settings())
    lines = ["| busy processes | network | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for busy, network in dict.fromkeys((run["busy"], run["network"]) for run in runs):
        cells = []
        for name in names:
            here = [r for r in runs if (r["busy"], r["network"], r["setting"]) == (busy, network, name)]
            threads = "/".join(sorted({str(run["threads"]) for run in here}))
            note = f" ({threads} thread{'s' * (threads != '1')})" if name == "chosen" else ""
            cells.append(f"{median(run['step_s'] for run in here):.2f}{note}")
        lines.append(f"| {busy} | `{network}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="timed in each process")
    parser.add_argument("--repeats", type=int, default=2, help="processes for each setting")
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    parser.add_argument("--child", choices=NETWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.steps)))
        return
    before = os.getloadavg()[0]
    runs = [run for n_busy in range(count_usable_cpus() + 1) for run in beside(n_busy, args)]
    record = {**surroundings("cpu"), "load_average_before": before, "steps": args.steps, "runs": runs}
    page = (
        f"{heading(record)} Median seconds of a training step, {args.steps} steps in each of "
        f"{args.repeats} processes; load average before: {before:.1f}.\n\n{table(runs)}\n"
    )
    publish(record, page, args.record)


if __name__ == "__main__":
    main()
