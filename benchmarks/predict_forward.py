"""What makes one forward pass on the CPU faster: torch's own, channels last alone, and ours step by step.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/predict_forward.py --record benchmarks/results/predict_forward

writes <record>.json and the table <record>.md. Variants take turns on noise, with one random network:

torch       as nnU-Net runs it
layout      torch's operators; input and weights channels last
norm        `ChannelsLast` without Winograd's convolution
all         `ChannelsLast`

Ratios are medians over the turns, of this process's CPU seconds, which know little of what else the machine
does. With --huge-pages all of them have their tensors on huge pages, as under `nnunet-mamba predict`.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from networks import PLANS as NETWORK_PLANS
from networks import plan
from records import heading, publish, surroundings
from torch import Tensor, nn

from nnunet_mamba import create_network
from nnunet_mamba.inference.channels_last import ChannelsLast
from nnunet_mamba.io.cpu import allocate_on_huge_pages
from nnunet_mamba.ops import numba_winograd
from nnunet_mamba.ops.numba_norm import to_channels_last

NETWORKS = ("nnunet", "umamba_bot")
PLANS = {
    "3D small": NETWORK_PLANS["small"][3],
    "3D hippocampus": NETWORK_PLANS["hippocampus"][3],
    "3D 64": plan(3, [32, 64, 128, 256, 320], [64, 64, 64], 2, num_classes=16),
    "2D 128 x 128": NETWORK_PLANS["small"][2],
    "3D tiny": NETWORK_PLANS["tiny"][3],  # a test
}


def variants(network: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the forward passes that are compared."""
    turned = copy.deepcopy(network)
    for weight in turned.parameters():
        if weight.ndim == x.ndim:
            weight.data = to_channels_last(weight.data)

    def norm() -> Tensor:
        with patch.object(numba_winograd, "takes", lambda *_: False):
            return faster()

    def faster() -> Tensor:
        with ChannelsLast():
            return network(x)

    return {
        "torch": lambda: network(x),
        "layout": lambda: turned(to_channels_last(x)),
        "norm": norm,
        "all": faster,
    }


@torch.inference_mode()
def measure(name: str, plan_name: str, batch: int, turns: int) -> list[dict[str, Any]]:
    """Measure all variants in turns."""
    sizes = {key: value for key, value in PLANS[plan_name].items() if key != "batch"}
    torch.manual_seed(0)
    network = create_network(name, **sizes).eval()
    x = torch.randn(batch, sizes["input_channels"], *sizes["patch_size"])
    passes = variants(network, x)
    outputs = {variant: run() for variant, run in passes.items()}
    times: dict[str, list[float]] = {variant: [] for variant in passes}
    for _ in range(turns):
        for variant, run in passes.items():
            before = time.process_time()
            run()
            times[variant].append(time.process_time() - before)
    stock = outputs["torch"]
    return [
        {
            "network": name,
            "plan": plan_name,
            "batch": batch,
            "variant": variant,
            "cpu_ms": 1000 * median(times[variant]) / batch,
            "ratio": median(a / b for a, b in zip(times["torch"], times[variant], strict=True)),
            "difference": float((output - stock).abs().max() / stock.abs().max()),
            "other_labels": float((output.argmax(1) != stock.argmax(1)).float().mean()),
        }
        for variant, output in outputs.items()
    ]


def page(record: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = [
        f"{heading(record)} Huge pages: {record['huge_pages']}. Medians of {record['turns']} turns; load "
        f"average {record['load_average']:.1f}. Difference: of any logit, relative to the largest.",
        "",
        "| plan | network | batch | variant | CPU ms per patch | times as fast | difference | other labels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        numbers = f"{row['cpu_ms']:.1f} | {row['ratio']:.2f}"
        faults = f"{row['difference']:.1e} | {row['other_labels']:.1e}"
        names = f"{row['plan']} | `{row['network']}` | {row['batch']} | {row['variant']}"
        lines.append(f"| {names} | {numbers} | {faults} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=[*PLANS][:-1])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--huge-pages", action="store_true")
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    args = parser.parse_args()
    if args.huge_pages:
        allocate_on_huge_pages()
    torch.set_num_threads(args.threads)
    rows = []
    for plan_name in args.plans:
        for name in args.networks or NETWORKS:
            rows += measure(name, plan_name, args.batch, args.turns)
    numbers = {"turns": args.turns, "load_average": os.getloadavg()[0], "huge_pages": args.huge_pages}
    record = {**surroundings("cpu"), **numbers, "rows": rows}
    publish(record, page(record), args.record)


if __name__ == "__main__":
    main()
