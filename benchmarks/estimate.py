"""Peak memory and time of a training step: as `nnunet-mamba estimate` predicts them, and measured.

    python benchmarks/estimate.py --record benchmarks/results/estimate_cpu
    python benchmarks/estimate.py --device cuda --profile cuda.json --record benchmarks/results/estimate_cuda

writes <record>.json and the table <record>.md. Each case is a network, its dimension and its
checkpoint_stages, on a plan of benchmarks/networks.py. It is measured in processes of its own: on the CPU one
for memory, in which malloc returns what is freed (`EXACT_MALLOC`; the peak is the kernel's VmHWM above what
was resident before the network was built), and one for time, with malloc as it is. On CUDA, where no one has
run it yet, memory is torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from networks import PLANS, arguments, load_the_operators, ndim_of, seconds

from nnunet_mamba import create_network
from nnunet_mamba.memory.estimate import estimate
from nnunet_mamba.memory.measure import EXACT_MALLOC, describe_device, peak_bytes
from nnunet_mamba.memory.profile import Profile, load_profile
from nnunet_mamba.memory.simulate import TrainingStep, nnunet_loss, random_batch
from nnunet_mamba.memory.time_model import LAYERS, TimedLayer

CASES: list[tuple[str, int | str]] = [
    *(
        (name, stages)
        for name in ("nnunet", "mm_unet", "umamba_bot", "umamba_enc")
        for stages in (0, 1, "all")
    ),
    *((name, stages) for name in ("mamba_bi", "segmamba") for stages in (0, 1, "all")),
    *((name, stages) for name in ("vm_unet", "mamba_unet") for stages in (0, 1, "all")),
]


def plan_of(name: str, stages: int | str, plan: str) -> dict[str, Any]:
    """Return the arguments of `create_network`."""
    sizes = arguments(name, ndim_of(name), plan)
    return {**sizes, "deep_supervision": True, "checkpoint_stages": stages}


def training(name: str, stages: int | str, args: argparse.Namespace) -> TrainingStep:
    device, sizes = torch.device(args.device), plan_of(name, stages, args.plan)
    network = create_network(name, **sizes).to(device)
    batch = PLANS[args.plan][ndim_of(name)]["batch"]
    x, targets = random_batch(
        network, batch, sizes["input_channels"], sizes["num_classes"], sizes["patch_size"], device
    )
    return TrainingStep(network, x, targets, load_profile(args.profile).precision)


def measure_memory(name: str, stages: int | str, args: argparse.Namespace) -> float:
    """Return the peak memory in MiB."""
    device = torch.device(args.device)
    load_the_operators(device)
    nnunet_loss(1)
    for layer in ("conv3d 16", "mamba"):
        TimedLayer(*LAYERS[layer], device, "fp32", backward=True).run()

    def train() -> None:
        job = training(name, stages, args)
        for _ in range(2):
            job.step()

    return peak_bytes(device, train) / 2**20


def measure_time(name: str, stages: int | str, args: argparse.Namespace) -> float:
    """Return the milliseconds of the fastest step after the first."""
    job = training(name, stages, args)
    times = [seconds(job.step, torch.device(args.device)) for _ in range(args.steps + 1)]
    return 1e3 * min(times[1:])


MEASURES = {"memory": measure_memory, "time": measure_time}


def in_a_process(what: str, name: str, stages: int | str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--child", what, name, str(stages), "--plan", args.plan]
    command += ["--device", args.device, "--profile", args.profile]
    command += ["--threads", str(args.threads), "--steps", str(args.steps)]
    exact = EXACT_MALLOC if what == "memory" else {}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **exact})
    return float(done.stdout.splitlines()[-1])


def compare(name: str, stages: int | str, args: argparse.Namespace, profile: Profile) -> dict[str, Any]:
    sizes = plan_of(name, stages, args.plan)
    sizes = {
        key: value for key, value in sizes.items() if key not in ("deep_supervision", "checkpoint_stages")
    }
    batch = PLANS[args.plan][ndim_of(name)]["batch"]
    predicted = estimate(name, sizes, batch=batch, profile=profile, checkpoint_stages=stages)
    times = predicted.seconds
    return {
        "network": name,
        "axes": ndim_of(name),
        "checkpoint_stages": stages,
        "predicted_mib": sum(predicted.memory_bytes.values()) / 2**20,
        "measured_mib": in_a_process("memory", name, stages, args),
        "predicted_ms": None if times is None else 1e3 * sum(times.values()),
        "measured_ms": in_a_process("time", name, stages, args),
        "predicted_parts_mib": {part: size / 2**20 for part, size in predicted.memory_bytes.items()},
        "predicted_parts_ms": None if times is None else {part: 1e3 * s for part, s in times.items()},
    }


def error_percent(row: dict[str, Any], unit: str) -> float:
    predicted, measured = row[f"predicted_{unit}"], row[f"measured_{unit}"]
    return float("nan") if predicted is None else 100 * (predicted / measured - 1)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | axes | checkpoint_stages | memory predicted (MiB) | measured | error "
        "| step predicted (ms) | measured | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ms = "" if row["predicted_ms"] is None else f"{row['predicted_ms']:.0f}"
        lines.append(
            f"| `{row['network']}` | {row['axes']} | {row['checkpoint_stages']} | {row['predicted_mib']:.0f} "
            f"| {row['measured_mib']:.0f} | {error_percent(row, 'mib'):+.0f} % | {ms} "
            f"| {row['measured_ms']:.0f} | {error_percent(row, 'ms'):+.0f} % |"
        )
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    worst = {unit: max(abs(error_percent(row, unit)) for row in rows) for unit in ("mib", "ms")}
    far = [row for row in rows if abs(error_percent(row, "mib")) > 15]
    outside = [f"{row['network']} ({row['checkpoint_stages']})" for row in far]
    return (
        f"Largest error: memory {worst['mib']:.0f} %, time {worst['ms']:.0f} %. "
        f"Memory not within 15 %: {', '.join(outside) or 'none'}."
    )


def describe_record(record: dict[str, Any]) -> str:
    before, after = record["load_average"]
    plans = "; ".join(
        f"{kind}: features {sizes['features_per_stage']}, patch {sizes['patch_size']}, batch {sizes['batch']}"
        for kind, sizes in record["plan"].items()
    )
    return (
        f"`{record['command']}`\n\n"
        f"Measured on {record['device']}; rates of the prediction: {record['profile']}. Plans: {plans}. "
        f"Fastest of {record['timed_steps']} steps; load average {before:.1f} before, {after:.1f} after.\n\n"
        f"{summary(record['rows'])}\n\n{table(record['rows'])}\n"
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: those of CASES")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--profile", help="as for nnunet-mamba estimate --device; default: the device's")
    parser.add_argument("--plan", choices=PLANS, default="small")
    parser.add_argument("--steps", type=int, default=3, help="timed training steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "NETWORK", "STAGES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.profile = args.profile or args.device
    return args


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        what, name, stages = args.child
        print(MEASURES[what](name, stages if stages == "all" else int(stages), args))
        return
    profile, load, rows = load_profile(args.profile), os.getloadavg()[0], []
    for name, stages in CASES:
        if not args.networks or name in args.networks:
            rows.append(compare(name, stages, args, profile))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    record = {
        "command": f"python benchmarks/estimate.py {' '.join(sys.argv[1:])}",
        "device": describe_device(torch.device(args.device)),
        "profile": profile.description,
        "plan": {f"{ndim}d": sizes for ndim, sizes in PLANS[args.plan].items()},
        "timed_steps": args.steps,
        "load_average": [load, os.getloadavg()[0]],
        "rows": rows,
    }
    print(describe_record(record))
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        args.record.with_suffix(".md").write_text(describe_record(record))
        print(f"-> {args.record}.json, {args.record}.md")


if __name__ == "__main__":
    main()
