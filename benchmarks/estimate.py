"""Peak memory of a training step: as `nnunet-mamba estimate` predicts it, and measured.

    python benchmarks/estimate.py --record benchmarks/results/estimate_cpu
    python benchmarks/estimate.py --device cuda --profile cuda.json --record benchmarks/results/estimate_cuda

writes <record>.json and the table <record>.md. Each case is a network, its dimension and its
checkpoint_stages, on a plan of benchmarks/networks.py; `name:mixer=word` has other mixers. It is measured in
a process of its own. On the CPU malloc returns what is freed there (`EXACT_MALLOC`), and the peak is the
kernel's VmHWM above what was resident before the network was built. On CUDA, where no one has run it yet, the
peak is torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from networks import PLANS, arguments, ndim_of, parts_of
from records import publish

from nnunet_mamba import create_network
from nnunet_mamba.blocks.convolution import StackedConvs
from nnunet_mamba.memory.estimate import estimate_memory
from nnunet_mamba.memory.measure import EXACT_MALLOC, describe_device, load_operators, peak_bytes
from nnunet_mamba.memory.profile import Profile, load_profile
from nnunet_mamba.memory.simulate import TrainingStep, random_batch

NETWORKS = (
    *("nnunet", "mm_unet", "umamba_bot", "umamba_enc", "mamba_bi", "segmamba", "vm_unet", "mamba_unet"),
    *("umamba2", "xlstm_unet_bot", "xlstm_unet_enc", "lkm_unet", "lightm_unet", "segmamba_v2", "nnmamba"),
    *(f"mm_unet:mixer={kind}" for kind in ("mamba2", "mlstm", "attention", "conv")),
    "mamba_bi:mixer=conv",
)
STAGES: tuple[int | str, ...] = (0, 1, "all")


def measure_memory(name: str, stages: int | str, args: argparse.Namespace) -> float:
    """Return the peak memory in MiB."""
    device, ndim = torch.device(args.device), ndim_of(name)
    network_name, words, _ = parts_of(name)
    sizes, batch = arguments(network_name, ndim, args.plan) | words, PLANS[args.plan][ndim]["batch"]
    torch.backends.cudnn.benchmark = True  # as nnU-Net
    load_operators(device, "fp32")
    convs = StackedConvs(16, 16, [3] * 3, [1] * 3, n_convs=3).to(device)
    convs(torch.randn(2, 16, 32, 48, 32, device=device, requires_grad=True)).sum().backward()
    del convs

    def train() -> None:
        network = create_network(network_name, **sizes, deep_supervision=True, checkpoint_stages=stages).to(
            device
        )
        data = random_batch(
            network, batch, sizes["input_channels"], sizes["num_classes"], sizes["patch_size"], device
        )
        training = TrainingStep(network, *data, load_profile(args.profile).precision)
        for _ in range(2):
            training.step()

    return peak_bytes(device, train) / 2**20


def in_a_process(name: str, stages: int | str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--child", name, str(stages), "--plan", args.plan]
    command += ["--device", args.device, "--profile", args.profile, "--threads", str(args.threads)]
    environment = {**os.environ, **EXACT_MALLOC}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def compare(name: str, stages: int | str, args: argparse.Namespace, profile: Profile) -> dict[str, Any]:
    ndim, (network_name, words, _) = ndim_of(name), parts_of(name)
    predicted = estimate_memory(
        network_name,
        arguments(network_name, ndim, args.plan) | words,
        batch=PLANS[args.plan][ndim]["batch"],
        profile=profile,
        checkpoint_stages=stages,
    )
    return {
        "network": name,
        "axes": ndim,
        "checkpoint_stages": stages,
        "predicted_mib": predicted.peak_bytes / 2**20,
        "measured_mib": in_a_process(name, stages, args),
        "predicted_parts_mib": {part: size / 2**20 for part, size in predicted.parts.items()},
    }


def error_percent(row: dict[str, Any]) -> float:
    return 100 * (row["predicted_mib"] / row["measured_mib"] - 1)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | axes | checkpoint_stages | memory predicted (MiB) | measured | error |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row['network']}` | {row['axes']} | {row['checkpoint_stages']} | {row['predicted_mib']:.0f} "
        f"| {row['measured_mib']:.0f} | {error_percent(row):+.0f} % |"
        for row in rows
    ]
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    largest = max(abs(error_percent(row)) for row in rows)
    far = [f"{row['network']} ({row['checkpoint_stages']})" for row in rows if abs(error_percent(row)) > 15]
    return f"Largest error: {largest:.0f} %. Not within 15 %: {', '.join(far) or 'none'}."


def describe_record(record: dict[str, Any]) -> str:
    plans = "; ".join(
        f"{kind}: features {sizes['features_per_stage']}, patch {sizes['patch_size']}, batch {sizes['batch']}"
        for kind, sizes in record["plan"].items()
    )
    return (
        f"`{record['command']}`\n\n"
        f"Measured on {record['device']}; profile of the prediction: {record['profile']}. Plans: {plans}.\n\n"
        f"{summary(record['rows'])}\n\n{table(record['rows'])}\n"
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: those of NETWORKS")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--profile", help="as for nnunet-mamba estimate --device; default: the device's")
    parser.add_argument("--plan", choices=PLANS, default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "STAGES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.profile = args.profile or args.device
    return args


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        name, stages = args.child
        print(measure_memory(name, stages if stages == "all" else int(stages), args))
        return
    profile, rows = load_profile(args.profile), []
    for name in args.networks or NETWORKS:
        for stages in STAGES:
            rows.append(compare(name, stages, args, profile))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    record = {
        "command": f"python benchmarks/estimate.py {' '.join(sys.argv[1:])}",
        "device": describe_device(torch.device(args.device)),
        "profile": profile.description,
        "plan": {f"{ndim}d": sizes for ndim, sizes in PLANS[args.plan].items()},
        "rows": rows,
    }
    publish(record, describe_record(record), args.record)


if __name__ == "__main__":
    main()
