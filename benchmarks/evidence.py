#!/usr/bin/env python
"""Evidence on where mixers help: gather the scores of studies, rebuild the tables and the figure of the docs.

    nnunet-mamba sweep scripts/longrange.yaml
    python benchmarks/evidence.py gather longrange longrange $nnUNet_results    NAME, the study's folder, trainings
    python benchmarks/evidence.py page

`gather` adds what is finished to benchmarks/results/NAME: scores.parquet (a row per case, label and metric), and
curves.parquet (Dice on validation patches by epoch). Rows of the same training are replaced, so that a study may
be run in parts, on several evenings and machines. `page` writes docs/evidence.png and the tables between the
marks in docs/longrange.md and docs/benchmark.md, from these files alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_mamba.io.atomic import atomic_write, write_text
from nnunet_mamba.nnunet.logs import read_epochs
from nnunet_mamba.nnunet.paths import parse_method
from nnunet_mamba.study.report.figures import STYLE, render_png, style_axes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TRAINING = ["dataset", "trainer", "plans", "configuration", "fold", "seed"]  # columns that name a training
TABLE = re.compile(r"(?P<method>.+)\.seed_(?P<seed>\d+)\.honest\.parquet")
SOLVED = 0.9  # Dice on validation patches; 0.5 is chance
CHANCE = 0.5
GROUPS = {  # methods of the positive control: title -> trainer and plans
    "nnU-Net, three stages": ("Control", "shallow"),
    "ResEnc, three stages": ("Control", "shallow_resenc"),
    "nnU-Net, its own plan": ("Control", "nnUNetPlans"),
    "MM-UNet": ("MMUNet", "shallow"),
    "its twin without SSM": ("MMUNetNoSSM", "shallow"),
    "MM-UNet, attention": ("MMUNet_Attention", "shallow"),
    "U-Mamba Bot": ("UMambaBot", "shallow"),
    "U-Mamba Enc": ("UMambaEnc", "shallow"),
    "their twin without SSM": ("UMambaBotNoSSM", "shallow"),
    "U-Mamba Bot, attention": ("UMambaBot_Attention", "shallow"),
    "Mamba Uni": ("MambaUni", "shallow"),
    "Mamba Bi": ("MambaBi", "shallow"),
    "Mamba Multi": ("MambaMulti", "shallow"),
    "their twin without SSM ": ("MambaMultiNoSSM", "shallow"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather", help="add finished trainings to benchmarks/results/NAME")
    gathering.add_argument("name")
    gathering.add_argument("study", type=Path, help="folder of what the sweep made")
    gathering.add_argument("results", type=Path, help="nnUNet_results of the trainings")
    commands.add_parser("page", help="rebuild tables and figure")
    args = parser.parse_args()
    if args.command == "gather":
        gather(args.name, args.study, args.results)
    else:
        write_page()


def gather(name: str, study: Path, results: Path) -> None:
    scores = [_read_table(file) for file in sorted(study.glob("tables/*/crossval/*.parquet"))]
    curves = [_read_curve(log.parent) for log in sorted(results.glob("seed_*/*/*/fold_*/debug.json"))]
    datasets = {dataset for table in scores for dataset in table["dataset"]}
    curves = [curve for curve in curves if set(curve["dataset"]) & datasets]
    for what, tables in (("scores", scores), ("curves", curves)):
        merge(RESULTS / name / f"{what}.parquet", [table for table in tables if len(table)])


def _read_table(file: Path) -> pd.DataFrame:
    match = TABLE.fullmatch(file.name)
    table = pd.read_parquet(file) if match else pd.DataFrame()
    return table.assign(seed=match["seed"]) if match else table.assign(dataset=[])


def _read_curve(fold: Path) -> pd.DataFrame:
    """Return the mean Dice on validation patches after each epoch of a training."""
    method = parse_method(fold.parent.name)
    epochs = read_epochs(file.read_text() for file in sorted(fold.glob("training_log_*.txt")))
    table = pd.DataFrame(
        {"epoch": [e.number + 1 for e in epochs], "dice": [pd.Series(e.dice).mean() for e in epochs]}
    )
    place = (
        fold.parents[1].name,
        *method,
        fold.name.removeprefix("fold_"),
        fold.parents[2].name.removeprefix("seed_"),
    )
    return table.assign(**dict(zip(TRAINING, place, strict=True)))


def merge(file: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Add tables to those of the file; trainings that are in both are replaced."""
    new = pd.concat(tables, ignore_index=True)
    if file.is_file():
        old = pd.read_parquet(file)
        known = pd.MultiIndex.from_frame(new[TRAINING])
        new = pd.concat([old[~pd.MultiIndex.from_frame(old[TRAINING]).isin(known)], new], ignore_index=True)
    new = new.sort_values(TRAINING, kind="stable", ignore_index=True)
    with atomic_write(file) as draft:
        new.to_parquet(draft, index=False)
    print(f"{file}: {len(new.drop_duplicates(TRAINING))} trainings")


if __name__ == "__main__":
    main()
