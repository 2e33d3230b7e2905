#!/usr/bin/env python
"""Evidence on where mixers help: gather the scores of studies; rebuild tables and figures of the docs.

    nnunet-mamba sweep scripts/longrange.yaml
    python benchmarks/evidence.py gather longrange $nnUNet_results/seed_*/Dataset9*_LongRange --metrics dice
    nnunet-mamba sweep scripts/benchmark_hippocampus_3d.yaml
    python benchmarks/evidence.py gather hippocampus_3d $nnUNet_results/seed_*/Dataset004_Hippocampus
    python benchmarks/evidence.py page

`gather NAME FOLDER ...` scores the finished folds in nnU-Net's folders of results, of complete
cross-validations or not, and adds them to benchmarks/results/NAME: scores.parquet, a row per case, label and
metric, and curves.parquet, Dice on validation patches by epoch. Rows of the same training are replaced, so
that a study may be run in parts, on several evenings and machines. `page` writes the tables and figures of
docs/longrange.md, docs/benchmark.md and docs/mm-unet.md, from these files alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import evidence_hippocampus
import evidence_longrange
import numpy as np
import pandas as pd

from nnunet_mamba.cli import main as run_command
from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.nnunet.logs import read_epochs
from nnunet_mamba.nnunet.paths import get_nnunet_folder, parse_method
from nnunet_mamba.study.evaluation.splits import read_validation_folds

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TRAINING = ["dataset", "trainer", "plans", "configuration", "fold", "seed"]  # columns that name a training


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather", help="add finished trainings to benchmarks/results/NAME")
    gathering.add_argument("name", metavar="NAME")
    gathering.add_argument("--metrics", nargs="+", default=["dice", "hd95", "nsd"], metavar="METRIC")
    gathering.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="nnUNet_results/seed_K/DATASET"
    )
    commands.add_parser("page", help="rebuild tables and figures")
    args = parser.parse_args()
    if args.command == "gather":
        gather(RESULTS / args.name, args.folders, args.metrics)
    else:
        evidence_longrange.write_page(RESULTS / "longrange", ROOT / "docs")
        evidence_hippocampus.write_pages(RESULTS / "hippocampus_3d", ROOT / "docs")


def gather(out: Path, folders: Iterable[Path], metrics: Iterable[str]) -> None:
    """Add the scores of finished folds, and the curves of their trainings, to the tables in `out`."""
    scores, curves = [], []
    for folder in folders:
        scores.append(drop_unfinished(score_folds(folder, metrics), read_cases(folder.name)))
        done = set(scores[-1][TRAINING].itertuples(index=False, name=None))
        found = [read_curve(log.parent) for log in sorted(folder.glob("*/fold_*/debug.json"))]
        curves += [
            curve for curve in found if done.intersection(curve[TRAINING].itertuples(index=False, name=None))
        ]
    merge(out / "scores.parquet", scores, [*TRAINING, "metric"])
    merge(out / "curves.parquet", curves, TRAINING)


def score_folds(folder: Path, metrics: Iterable[str]) -> pd.DataFrame:
    """Return the table that `nnunet-mamba evaluate` makes of the finished folds of a dataset, without rows if
    there are none, of which it tells."""
    with TemporaryDirectory() as temporary:
        table = Path(temporary) / "scores.parquet"
        run_command(["evaluate", "--results", str(folder), "--metrics", *metrics, "--out", str(table)])
        return pd.read_parquet(table) if table.is_file() else pd.DataFrame(columns=[*TRAINING, "case"])


def read_cases(dataset: str) -> dict[str, frozenset[str]]:
    """Return the validation cases of each fold of a preprocessed dataset."""
    splits = read_validation_folds(get_nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json")
    assert splits.cases is not None  # there is a file
    return {fold: frozenset(cases) for fold, cases in zip(splits.names, splits.cases, strict=True)}


def drop_unfinished(scores: pd.DataFrame, cases: Mapping[str, frozenset[str]]) -> pd.DataFrame:
    """Leave out trainings without scores of all cases of their fold, as while they are validated."""
    found = scores.groupby(TRAINING)["case"].agg(frozenset)
    expected = [cases.get(fold) for fold in found.index.get_level_values("fold")]
    is_whole = np.array([one == other for one, other in zip(found, expected, strict=True)], dtype=bool)
    for training in found.index[~is_whole]:
        print(f"not finished: {' '.join(training)}")
    return scores[pd.MultiIndex.from_frame(scores[TRAINING]).isin(found.index[is_whole])]


def read_curve(fold: Path) -> pd.DataFrame:
    """Return the mean Dice on validation patches after each epoch of a training."""
    epochs = read_epochs(file.read_text() for file in sorted(fold.glob("training_log_*.txt")))
    method, number = parse_method(fold.parent.name), fold.name.removeprefix("fold_")
    assert method is not None
    names = (fold.parents[1].name, *method, number, fold.parents[2].name.removeprefix("seed_"))
    dice = [float(np.mean(epoch.dice)) for epoch in epochs]
    table = pd.DataFrame({"epoch": [epoch.number + 1 for epoch in epochs], "dice": dice})
    return table.assign(**dict(zip(TRAINING, names, strict=True)))


def merge(file: Path, tables: Iterable[pd.DataFrame], key: Sequence[str]) -> None:
    """Add tables to those of the file; rows of both with the same key are replaced."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return
    new = pd.concat(filled, ignore_index=True)
    if file.is_file():
        old = pd.read_parquet(file)
        is_known = pd.MultiIndex.from_frame(old[key]).isin(pd.MultiIndex.from_frame(new[key]))
        new = pd.concat([old[~is_known], new], ignore_index=True)
    new = new.sort_values(TRAINING, kind="stable", ignore_index=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as draft:
        new.to_parquet(draft, index=False)
    print(f"{file}: {len(new.drop_duplicates(TRAINING))} trainings")


if __name__ == "__main__":
    main()
