"""Comparison of nnU-Net's predictor with the batched one on nnU-Net's sliding window.

    python benchmarks/predict.py --threads 1 --record benchmarks/results/predict_cpu
    python benchmarks/predict.py --device cuda --record benchmarks/results/predict_cuda
    python benchmarks/predict.py umamba_bot --plans "2D hippocampus" --batch-sizes 1 4 16 64

writes <record>.json and the table <record>.md. The two take turns on one volume of noise, with all mirrored
copies, tiles half a patch apart and one random network; each has one turn before the clock runs. Times are
medians; the ratio is the median of the ratios of neighbouring turns, so that what else the machine does falls
on both; with one thread, CPU seconds hardly know of it at all. Nothing is compiled. Both have the same
threads (at most 8, nnU-Net's own limit without nnUNet_def_n_proc).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from networks import PLANS as NETWORK_PLANS
from networks import plan, seconds
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from records import heading, surroundings, write
from torch import nn

from nnunet_mamba import create_network
from nnunet_mamba.inference import BatchedPredictor

NETWORKS = ("nnunet", "umamba_bot")
HIPPOCAMPUS_2D = plan(2, [32, 64, 128, 256], [56, 40], 366, num_classes=3)
PLANS = {  # name -> plan, volume
    "2D hippocampus": (HIPPOCAMPUS_2D, (12, 50, 35)),
    "2D 128 x 128": (NETWORK_PLANS["small"][2], (2, 160, 120)),
    "3D small": (NETWORK_PLANS["small"][3], (36, 48, 32)),
    "3D hippocampus": (NETWORK_PLANS["hippocampus"][3], (36, 50, 35)),
}
TINY_PLANS = {"3D tiny": (NETWORK_PLANS["tiny"][3], (18, 16, 32))}  # a test
CUDA_PLANS = {
    "2D abdomen": (NETWORK_PLANS["published"][2], (32, 480, 480)),
    "3D abdomen": (NETWORK_PLANS["published"][3], (96, 288, 288)),
}
ALL_PLANS = PLANS | TINY_PLANS | CUDA_PLANS


def predictor(kind: Any, network: nn.Module, sizes: dict[str, Any], args: Any, **options: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        made = kind(device=torch.device(args.device), allow_tqdm=False, **options)
    patch = sizes["patch_size"]
    made.network = network
    made.configuration_manager = SimpleNamespace(patch_size=patch)
    made.label_manager = SimpleNamespace(num_segmentation_heads=sizes["num_classes"])
    made.allowed_mirroring_axes = tuple(range(len(patch)))
    return made


def compare(name: str, plan_name: str, batch_size: int | None, args: argparse.Namespace) -> dict[str, Any]:
    """Measure stock and batched prediction in turns."""
    sizes, volume = ALL_PLANS[plan_name]
    torch.manual_seed(0)
    network = create_network(name, **{key: value for key, value in sizes.items() if key != "batch"})
    x = torch.randn(sizes["input_channels"], *volume)
    stock = predictor(nnUNetPredictor, network, sizes, args)
    options = {"batch_size": batch_size, "n_threads": args.threads}
    ours = predictor(BatchedPredictor, network, sizes, args, **options)
    expected, found = (p.predict_sliding_window_return_logits(x).float() for p in (stock, ours))
    device = torch.device(args.device)
    turns = [(clocked(stock, x, device), clocked(ours, x, device)) for _ in range(args.turns)]
    return {
        "network": name,
        "plan": plan_name,
        "batch": ours.batch_size,
        "stock_s": median(before for (before, _), _ in turns),
        "batched_s": median(after for _, (after, _) in turns),
        "faster": median(before / after for (before, _), (after, _) in turns),
        "stock_cpu_s": median(before for (_, before), _ in turns),
        "batched_cpu_s": median(after for _, (_, after) in turns),
        "less_cpu": median(before / after for (_, before), (_, after) in turns),
        "difference": float((found - expected).abs().max() / expected.abs().max()),
        "other_labels": float((found.argmax(0) != expected.argmax(0)).float().mean()),
    }


def clocked(one: Any, x: torch.Tensor, device: torch.device) -> tuple[float, float]:
    """Measure the seconds of one prediction: wall time, and CPU time of this process."""
    before = time.process_time()
    of_the_clock = seconds(lambda: one.predict_sliding_window_return_logits(x), device)
    return of_the_clock, time.process_time() - before


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| plan | network | batch | stock (s) | batched (s) | times as fast | stock (CPU s) "
        "| batched (CPU s) | ratio | difference | other labels |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row['stock_s']:.2f} | {row['batched_s']:.2f} | {row['faster']:.2f}"
        cpu = f"{row['stock_cpu_s']:.2f} | {row['batched_cpu_s']:.2f} | {row['less_cpu']:.2f}"
        faults = f"{row['difference']:.1e} | {row['other_labels']:.1e}"
        lines.append(f"| {row['plan']} | `{row['network']}` | {row['batch']} | {times} | {cpu} | {faults} |")
    return "\n".join(lines)


def page(record: dict[str, Any]) -> str:
    plans = "; ".join(
        f"{name}: patch {sizes['patch_size']}, features {sizes['features_per_stage']}, volume {list(volume)}"
        for name, (sizes, volume) in ALL_PLANS.items()
        if any(row["plan"] == name for row in record["rows"])
    )
    before, after = record["load_average"]
    return (
        f"{heading(record)} {plans}. Medians of {record['turns']} turns each, in turn; load average "
        f"{before:.1f} before, {after:.1f} after: beside others' work, trust ratios rather than seconds. "
        f"Difference: the largest of any logit, relative to the largest logit.\n\n{table(record['rows'])}\n"
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--plans", nargs="+", choices=ALL_PLANS, help="default: the device's")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[None], help="default: chosen")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    return parser.parse_args()


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    load, rows = os.getloadavg()[0], []
    for plan_name in args.plans or (PLANS if args.device == "cpu" else CUDA_PLANS):
        for name in args.networks or NETWORKS:
            for batch_size in args.batch_sizes:
                rows.append(compare(name, plan_name, batch_size, args))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    numbers = {"turns": args.turns, "load_average": [load, os.getloadavg()[0]], "rows": rows}
    record = {**surroundings(args.device), **numbers}
    print(page(record))
    if args.record:
        write(args.record, record, page(record))
        print(f"-> {args.record}.json, {args.record}.md")


if __name__ == "__main__":
    main()
