#!/usr/bin/env python
"""What becomes of MM-UNet's residual branch along a training, for every reading of what its mixer hands on.

    nnunet-mamba sweep scripts/mm_unet/readings_2d.yaml    makes the plans `bench` and the data
    scripts/mm_unet/branch.py --out docs/mm_unet_branch

Trains each reading (`blocks.mixers.OUTPUTS`) and the twin without SSM on fold 0, by the benchmark's recipe
and by the paper's [1, section 4], with nnU-Net's own data and augmentation, and looks at every residual block
of the encoder, on a fixed batch of validation cases, before some steps:

    scale       standard deviation of what the branch adds, M(F(x)), over that of what it is added to, x
    inside      variance of what the branch adds [1, fig. 2b]
    outside     variance of what the block puts out [1, fig. 2b]
    gradient    root mean square of the loss' gradient with respect to the weights of F, and of the mixer
    delta       median step size of the scans, softplus of what dt_proj gives

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
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.style
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

STEPS = (0, 5, 10, 20, 40, 80, 120, 180, 239, 320, 400, 479)
TWIN = "without SSM"
QUANTITIES = {
    "scale": "SD of the branch\n/ SD of the skip",
    "inside": "variance\ninside the branch",
    "outside": "variance\noutside",
    "convs_gradient": "gradient of F\n(RMS)",
    "mixer_gradient": "gradient of M\n(RMS)",
    "delta": "step size\nof the scans",
}
COLOURS = ("#90cdf4", "#2b6cb0", "#1a202c")  # of the stages, from the finest


def main() -> None:
    parser = argparse.ArgumentParser(description="The residual branch of MM-UNet along a training.")
    parser.add_argument("--dataset", default="Dataset004_Hippocampus", help="its full name")
    parser.add_argument("--plans", default="bench")
    parser.add_argument("--out", type=Path, default=Path("mm_unet_branch"))
    args = parser.parse_args()
    os.environ |= {"nnUNet_n_proc_DA": "0", "NNUNET_MAMBA_SEED": "0", "NNUNET_MAMBA_THREADS": "1"}
    records = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["nnUNet_results"] = scratch  # noqa: SIM112 (nnU-Net reads it when it is imported)
        for recipe in ("benchmark", "paper"):
            for reading, trainer_class in trainers(recipe).items():
                records[f"{recipe}, {reading}"] = record(trainer_class, args.dataset, args.plans)
                print(summary(f"{recipe}, {reading}", records[f"{recipe}, {reading}"]), flush=True)
    args.out.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n")
    for recipe in ("benchmark", "paper"):
        draw(args.out.with_name(f"{args.out.name}_{recipe}.png"), recipe, records)
    print(f"-> {args.out}.json, {args.out}_benchmark.png, {args.out}_paper.png")


def trainers(recipe: str) -> dict[str, Any]:
    """One of each reading, and of the twin; by the paper's recipe twice as long, for its rate is low."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark_hippocampus" / "trainers"))
    from benchmark_trainers import READINGS, RECIPE

    from nnunet_mamba.trainers.family import nnUNetTrainerMMUNet
    from nnunet_mamba.trainers.recipes import MM_UNET
    from nnunet_mamba.trainers.variants import twin, variant

    long = replace(MM_UNET, settings={**RECIPE.settings, **MM_UNET.settings, "num_epochs": 16})
    chosen = {"benchmark": RECIPE, "paper": long}[recipe]
    named = {trainer.overrides["output"]: trainer for trainer in READINGS} | {TWIN: twin(nnUNetTrainerMMUNet)}
    return {name: watched(variant(trainer, f"_{recipe}", recipe=chosen)) for name, trainer in named.items()}


def watched(trainer_class: Any) -> Any:
    """A subclass that keeps its losses, and before the steps of `STEPS` what `look` sees."""

    class Watched(trainer_class):  # type: ignore[misc]
        def on_train_start(self) -> None:
            super().on_train_start()
            self.losses: list[float] = []
            self.seen: list[dict[str, Any]] = []
            self.fixed = next(self.dataloader_val)["data"]
            self.disable_checkpointing = True

        def train_step(self, batch: dict) -> dict:
            step = len(self.losses)
            stages = look(self.network, self.fixed) if step in STEPS else []
            result: dict[str, Any] = super().train_step(batch)
            self.losses.append(float(result["loss"]))
            if stages:
                for stage, gradients in zip(stages, look_back(self.network), strict=True):
                    stage.update(gradients)
                self.seen.append({"step": step, "loss": mean(self.losses[-30:]), "stages": stages})
            return result

    return Watched


def record(trainer_class: Any, dataset: str, plans_name: str) -> list[dict[str, Any]]:
    """What was seen in one training on fold 0."""
    from nnunetv2.paths import nnUNet_preprocessed

    folder = Path(str(nnUNet_preprocessed), dataset)
    plans = {**json.loads((folder / f"{plans_name}.json").read_text()), "continue_training": False}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    with contextlib.redirect_stdout(None):
        trainer = trainer_class(plans, "2d", 0, dataset_json, torch.device("cpu"))
        trainer.run_training()
    seen: list[dict[str, Any]] = trainer.seen
    return seen


def residual_blocks(network: Any) -> list[Any]:
    """The encoder's, from the finest stage to the bottleneck."""
    from nnunet_mamba.blocks.meta import MetaBlock

    return [block for block in network.encoder.modules() if isinstance(block, MetaBlock)]


def look(network: Any, batch: torch.Tensor) -> list[dict[str, float]]:
    """Features and step sizes, per residual block of the encoder."""
    from nnunet_mamba.analysis.features import spreads
    from nnunet_mamba.analysis.mixers import watch
    from nnunet_mamba.analysis.scan_rows import scans_of
    from nnunet_mamba.blocks.mamba import Mamba

    found: dict[str, dict[str, float]] = {}
    for one in spreads(network, batch):
        found.setdefault(one.block, {})[one.part] = one.variance
    names = {block: name for name, block in network.named_modules()}
    has_mixers = any(isinstance(module, Mamba) for module in network.modules())
    deltas = [
        torch.stack([scan.delta.median() for scan in scans_of(seen.block, seen.x, seen.grid)]).mean().item()
        for seen in (watch(network, batch[:1]) if has_mixers else [])
    ]
    stages = []
    for block in residual_blocks(network):
        variances = found[names[block]]
        inside = variances.get("mixer", variances["convs"])
        stages.append(
            {
                "scale": (inside / variances["skip"]) ** 0.5,
                "inside": inside,
                "outside": variances["out"],
                **({"delta": deltas[len(stages)]} if deltas else {}),
            }
        )
    return stages


def look_back(network: Any) -> list[dict[str, float]]:
    """Gradients of the step just made, clipped as nnU-Net clips them, per residual block of the encoder."""
    return [
        {
            f"{part}_gradient": root_mean_square(getattr(block, part))
            for part in ("convs", "mixer")
            if any(True for _ in getattr(block, part).parameters())
        }
        for block in residual_blocks(network)
    ]


def root_mean_square(module: nn.Module) -> float:
    gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return torch.cat(gradients).square().mean().sqrt().item()


def summary(name: str, seen: list[dict[str, Any]]) -> str:
    """First and last look, stages from the finest."""
    lines = [f"{name}: loss {seen[0]['loss']:.3f} -> {seen[-1]['loss']:.3f} at step {seen[-1]['step']}"]
    for quantity, label in QUANTITIES.items():
        looks = [[stage[quantity] for stage in seen[i]["stages"] if quantity in stage] for i in (0, -1)]
        if looks[0]:
            first, last = (" ".join(f"{value:.2g}" for value in look) for look in looks)
            lines.append(f"    {label.replace(chr(10), ' ')}: {first} -> {last}")
    return "\n".join(lines)


def draw(file: Path, recipe: str, records: dict[str, list[dict[str, Any]]]) -> None:
    """A column per reading, a row per quantity, a line per stage."""
    own = {name.split(", ")[1]: seen for name, seen in records.items() if name.startswith(recipe)}
    style = {"font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    with matplotlib.style.context(["default", {**style, "grid.color": "#e2e8f0"}]):  # nnU-Net changes it
        figure = Figure(figsize=(1.9 * len(own) + 0.5, 1.35 * len(QUANTITIES)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(QUANTITIES), len(own), sharex=True, sharey="row", squeeze=False)
        for ax, reading in zip(grid[0], own, strict=True):
            ax.set_title(reading)
        for row, (quantity, label) in zip(grid, QUANTITIES.items(), strict=True):
            row[0].set_ylabel(label)
            for ax, seen in zip(row, own.values(), strict=True):
                plot(ax, quantity, seen)
        for ax in grid[-1]:
            ax.set_xlabel("step")
        grid[0][0].legend(fontsize=6, frameon=False)
        figure.savefig(file, dpi=130)


def plot(ax: Any, quantity: str, seen: list[dict[str, Any]]) -> None:
    """A line per stage that has it."""
    ax.set_yscale("log")
    for stage, colour in enumerate(COLOURS):
        values = [one["stages"][stage].get(quantity) for one in seen]
        if None not in values:
            steps = [one["step"] for one in seen]
            ax.plot(steps, values, ".-", color=colour, label=f"stage {stage + 1}", linewidth=1, markersize=3)


if __name__ == "__main__":
    main()
