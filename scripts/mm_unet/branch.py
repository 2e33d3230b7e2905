#!/usr/bin/env python
"""Measure MM-UNet's residual branch along a training, for every reading of what its mixer hands on.

    nnunet-mamba sweep scripts/mm_unet/readings_2d.yaml    makes the plans `bench` and the data
    scripts/mm_unet/branch.py --out docs/mm_unet_branch

Trains each reading (`blocks.mixers.OUTPUTS`) and the twin without SSM on fold 0, by the benchmark's recipe
and by the paper's [1, section 4], with nnU-Net's own data and augmentation, and measures every residual block
of the encoder, on a fixed batch of validation cases, before some steps:

    scale            what the branch adds over what it is added to, both as root mean squares
    share            M(F(x)), without a residual or norm of the mixer's own, over F(x), likewise
    inside           variance of what the branch adds [1, fig. 2b]
    outside          variance of what the block puts out [1, fig. 2b]
    convs_gradient   root mean square of the gradient with respect to F's weights, clipped as nnU-Net does
    mixer_gradient   the same of M's weights
    delta            median step size of the scans on one case, softplus of what dt_proj gives

Writes OUT.json and a figure per recipe. About a minute of one core a training, two by the paper's recipe.

[1] Xie et al., MM-UNet, arXiv:2503.17540.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import matplotlib.style
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from nnunet_mamba.analysis.activations import FeatureSpread, measure_spreads, record_scan_inputs
from nnunet_mamba.analysis.attention import iterate_scans
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.meta import MetaBlock

STEPS = (0, 5, 10, 20, 40, 80, 120, 180, 239, 320, 400, 479)
TWIN = "without SSM"
RECIPES = ("benchmark", "paper")
QUANTITIES = {
    "scale": "branch / skip\n(RMS)",
    "share": "M(F(x)) / F(x)\n(RMS)",
    "inside": "variance\ninside the branch",
    "outside": "variance\noutside",
    "convs_gradient": "gradient of F\n(RMS)",
    "mixer_gradient": "gradient of M\n(RMS)",
    "delta": "step size\nof the scans",
}
Stage = dict[str, float]  # quantity -> value, of one residual block
Record = list[dict[str, Any]]  # step, loss, stages: list[Stage]


def main() -> None:
    parser = argparse.ArgumentParser(description="MM-UNet's residual branch along a training.")
    parser.add_argument("--dataset", default="Dataset004_Hippocampus", help="its full name")
    parser.add_argument("--plans", default="bench")
    parser.add_argument("--out", type=Path, default=Path("mm_unet_branch"))
    args = parser.parse_args()
    os.environ |= {"nnUNet_n_proc_DA": "0", "NNUNET_MAMBA_SEED": "0", "NNUNET_MAMBA_THREADS": "1"}
    records: dict[str, dict[str, Record]] = {recipe: {} for recipe in RECIPES}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["nnUNet_results"] = scratch  # noqa: SIM112 (nnU-Net reads it when it is imported)
        for recipe in RECIPES:
            for reading, trainer_class in trainers(recipe):
                records[recipe][reading] = record_training(trainer_class, args.dataset, args.plans)
                print(f"{recipe}, {summary(reading, records[recipe][reading])}", flush=True)
    args.out.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for recipe in RECIPES:
        draw(args.out.with_name(f"{args.out.name}_{recipe}.png"), records[recipe])
    print(f"-> {args.out}.json, {args.out}_benchmark.png, {args.out}_paper.png")


def trainers(recipe: str) -> Iterator[tuple[str, Any]]:
    """Yield each reading and the twin; by the paper's recipe twice as long, for its rate is low."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark_hippocampus" / "trainers"))
    from benchmark_trainers import READINGS, RECIPE

    from nnunet_mamba.trainers.networks import nnUNetTrainerMMUNet
    from nnunet_mamba.trainers.recipes import MM_UNET
    from nnunet_mamba.trainers.variants import make_twin, make_variant

    papers = replace(MM_UNET, settings={**RECIPE.settings, **MM_UNET.settings, "num_epochs": 16})
    chosen = {"benchmark": RECIPE, "paper": papers}[recipe]
    named = {trainer.overrides["mixer_output"]: trainer for trainer in READINGS}
    for reading, trainer in (named | {TWIN: make_twin(nnUNetTrainerMMUNet)}).items():
        yield reading, recording(make_variant(trainer, f"_{recipe}", recipe=chosen))


def recording(trainer_class: Any) -> Any:
    """Return a subclass that keeps its losses and, before the steps of `STEPS`, what is measured."""

    class Recording(trainer_class):  # type: ignore[misc]
        def on_train_start(self) -> None:
            super().on_train_start()
            self.losses: list[float] = []
            self.record: Record = []
            self.fixed_batch = next(self.dataloader_val)["data"]
            self.disable_checkpointing = True

        def train_step(self, batch: dict) -> dict:
            step = len(self.losses)
            stages = measure_features(self.network, self.fixed_batch) if step in STEPS else []
            result: dict[str, Any] = super().train_step(batch)
            self.losses.append(float(result["loss"]))
            if stages:
                gradients = measure_gradients(self.network)
                stages = [one | other for one, other in zip(stages, gradients, strict=True)]
                self.record.append({"step": step, "loss": mean(self.losses[-30:]), "stages": stages})
            return result

    return Recording


def record_training(trainer_class: Any, dataset: str, plans_name: str) -> Record:
    """Train on fold 0 and return what was measured."""
    from nnunetv2.paths import nnUNet_preprocessed

    folder = Path(str(nnUNet_preprocessed), dataset)
    plans = {
        **json.loads((folder / f"{plans_name}.json").read_text(encoding="utf-8")),
        "continue_training": False,
    }
    dataset_json = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(None):
        trainer = trainer_class(plans, "2d", 0, dataset_json, torch.device("cpu"))
        trainer.run_training()
    record: Record = trainer.record
    return record


def residual_blocks(network: Any) -> dict[str, MetaBlock]:
    """The encoder's by name, from the finest stage to the bottleneck."""
    named = network.encoder.named_modules(prefix="encoder")
    return {name: block for name, block in named if isinstance(block, MetaBlock)}


def measure_features(network: Any, batch: Tensor) -> list[Stage]:
    """Scales, variances and step sizes, per residual block of the encoder."""
    parts: dict[str, dict[str, FeatureSpread]] = {}
    for one in measure_spreads(network, batch):
        parts.setdefault(one.block, {})[one.part] = one
    deltas = step_sizes(network, batch[:1])
    stages = []
    for name in residual_blocks(network):
        own = parts[name]
        branch, mixed = own.get("mixer", own["convs"]), own.get("mixed", own.get("mixer"))
        stage = {
            "scale": root_mean_square(branch) / root_mean_square(own["skip"]),
            "inside": branch.variance,
            "outside": own["out"].variance,
        }
        if mixed is not None:
            stage["share"] = root_mean_square(mixed) / root_mean_square(own["convs"])
            stage["delta"] = deltas[len(stages)]
        stages.append(stage)
    return stages


def step_sizes(network: nn.Module, case: Tensor) -> list[float]:
    """The median of every Mamba block's delta, averaged over its directions."""
    if not any(isinstance(module, Mamba) for module in network.modules()):
        return []
    return [
        mean(scan.delta.median().item() for scan in iterate_scans(seen.block, seen.x, seen.grid))
        for seen in record_scan_inputs(network, case)
    ]


def root_mean_square(part: FeatureSpread) -> float:
    return (part.variance + part.mean**2) ** 0.5


def measure_gradients(network: Any) -> list[Stage]:
    """Gradients of the step just made, per residual block of the encoder."""
    return [
        {
            f"{part}_gradient": torch.cat([p.grad.flatten() for p in parameters])
            .square()
            .mean()
            .sqrt()
            .item()
            for part in ("convs", "mixer")
            if (parameters := [p for p in getattr(block, part).parameters() if p.grad is not None])
        }
        for block in residual_blocks(network).values()
    ]


def summary(reading: str, record: Record) -> str:
    """The first and the last measurement in words, stages from the finest."""
    first, last = record[0], record[-1]
    lines = [f"{reading}: loss {first['loss']:.3f} -> {last['loss']:.3f} at step {last['step']}"]
    for quantity, label in QUANTITIES.items():
        if quantity in first["stages"][0]:
            values = (" ".join(f"{stage[quantity]:.2g}" for stage in one["stages"]) for one in (first, last))
            lines.append(f"    {' '.join(label.split())}: {' -> '.join(values)}")
    return "\n".join(lines)


def draw(file: Path, records: dict[str, Record]) -> None:
    """A column per reading, a row per quantity, a line per stage."""
    style = {"font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    with matplotlib.style.context(["default", {**style, "grid.color": "#e2e8f0"}]):  # nnU-Net changes it
        figure = Figure(figsize=(1.9 * len(records) + 0.5, 1.35 * len(QUANTITIES)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(QUANTITIES), len(records), sharex=True, sharey="row", squeeze=False)
        for ax, reading in zip(grid[0], records, strict=True):
            ax.set_title(reading)
        for row, (quantity, label) in zip(grid, QUANTITIES.items(), strict=True):
            row[0].set_ylabel(label)
            for ax, record in zip(row, records.values(), strict=True):
                plot(ax, quantity, record)
        for ax in grid[-1]:
            ax.set_xlabel("step")
        grid[0][0].legend(fontsize=6, frameon=False)
        figure.savefig(file, dpi=130)


def plot(ax: Any, quantity: str, record: Record) -> None:
    """A line per stage that has the quantity, the finest lightest."""
    ax.set_yscale("log")
    n_stages = len(record[0]["stages"])
    for stage in range(n_stages):
        values = [one["stages"][stage].get(quantity) for one in record]
        if None not in values:
            colour = matplotlib.colormaps["Blues"]((stage + 2) / (n_stages + 1))
            steps = [one["step"] for one in record]
            ax.plot(steps, values, ".-", color=colour, label=f"stage {stage + 1}", linewidth=1, markersize=3)


if __name__ == "__main__":
    main()
