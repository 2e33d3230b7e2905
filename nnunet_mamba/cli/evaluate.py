"""nnunet-mamba evaluate: predicted label maps against references, or nnU-Net's results of a dataset."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.study.evaluation.config import EvaluationConfig
    from nnunet_mamba.study.evaluation.evaluate import EvaluationTask
    from nnunet_mamba.study.evaluation.match import (
        MatchedCases,
    )
    from nnunet_mamba.study.evaluation.table import Score

Collected = tuple["list[EvaluationTask]", list[str], list[str]]  # tasks, missing predictions, other problems


def add(commands: Any) -> None:
    p = commands.add_parser(
        "evaluate",
        description="Matches cases by name and scores every label of each. Exit code 1: cases or folds are "
        "missing, or there are predictions without a reference, or folds that the split does not have.",
        epilog="example: nnunet-mamba evaluate predictions labelsTs --tolerance-mm 2 --out scores.csv",
    )
    _add_inputs(p)
    _add_choices(p)
    _add_details(p)
    _add_outputs(p)
    p.set_defaults(run=evaluate)


def _add_inputs(p: argparse.ArgumentParser) -> None:
    """Add the folders to score."""
    p.add_argument("predictions", metavar="PRED", nargs="?", type=Path, help="folder of predicted label maps")
    p.add_argument("references", metavar="REF", nargs="?", type=Path, help="folder of the true ones")
    p.add_argument(
        "--results",
        nargs="+",
        metavar="DATASET_OR_FOLDER",
        help="instead of PRED and REF: all trainers, plans, configurations and folds of a dataset, or what "
        "is in folders of nnU-Net's results",
    )
    p.add_argument(
        "--folds",
        nargs="+",
        metavar="FOLD",
        help="of --results, only these: 0 1 2, all (default: every fold)",
    )
    p.add_argument(
        "--dataset-json",
        type=Path,
        metavar="FILE",
        help="how labels are numbered (default: looked for beside PRED and REF, which must agree)",
    )


def _add_choices(p: argparse.ArgumentParser) -> None:
    """Add the labels, metrics and rules to score by."""
    what = p.add_mutually_exclusive_group()
    what.add_argument(
        "--labels", nargs="+", default=[], metavar="LABEL", help="only these, by number or name"
    )
    what.add_argument("--regions", nargs="+", default=[], metavar="NAME=1+2", help="instead of labels")
    p.add_argument("--metrics", nargs="+", default=[], metavar="METRIC", help="--list names them")
    p.add_argument(
        "--tolerance-mm", nargs="+", default=[], metavar="T", help="of NSD: 2, or label=T (default: 1)"
    )
    p.add_argument("--protocol", default="honest", metavar="NAME", help="--list shows them (default: honest)")
    p.add_argument(
        "--empty", metavar="POLICY", help="where a mask is empty: diagonal (default), nan, inf, brats"
    )


def _add_details(p: argparse.ArgumentParser) -> None:
    """Add what the files do not say about themselves."""
    p.add_argument("--allow-missing", action="store_true", help="score missing cases as empty predictions")
    p.add_argument(
        "--instances", action="store_true", help="references number cells (for f1), all of label 1"
    )
    p.add_argument(
        "--spacing",
        nargs="+",
        type=float,
        metavar="MM",
        help="of pictures and TIFF volumes, whose files do not tell it, as axes go: z y x, or y x",
    )
    p.add_argument("--reference-ending", metavar="TEXT", help="where it differs, e.g. _label.tiff")
    p.add_argument(
        "--origin",
        nargs="+",
        default=[],
        metavar="COLUMN=TEXT",
        help="what the table says of PRED: dataset, trainer, plans, configuration, fold, seed",
    )


def _add_outputs(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--out", type=Path, metavar="TABLE", help="a row per case, label and metric: .csv or .parquet"
    )
    p.add_argument("-j", "--jobs", type=int, metavar="N", help="threads (default: processors, 8 at most)")
    p.add_argument("--list", action="store_true", help="show the metrics and protocols")


def evaluate(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    _check_options(args)
    tasks, missing, problems = _collect_results(args) if args.results else _collect_folders(args)
    if not tasks:
        for text in [*missing, *problems]:
            print(f"incomplete: {text}", file=sys.stderr)
        print("There is nothing to score.", file=sys.stderr)
        return 1

    from nnunet_mamba.io.cpu import count_usable_cpus
    from nnunet_mamba.study.evaluation.evaluate import score_tasks
    from nnunet_mamba.study.evaluation.table import write_table

    jobs = args.jobs or min(count_usable_cpus(), 8)
    scores = score_tasks(tasks, jobs=jobs, progress=_progress_bar())
    _print_scores(scores)
    for text in missing:
        print(f"scored as empty: {text}" if args.allow_missing else f"incomplete: {text}", file=sys.stderr)
    for text in problems:
        print(f"incomplete: {text}", file=sys.stderr)
    if args.out:
        write_table(scores, args.out)
        print(f"{len(scores)} rows -> {args.out}")
    return 1 if problems or (missing and not args.allow_missing) else 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise ValueError for options that do not fit each other, or have values that do not exist."""
    if args.out and args.out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{args.out} should end in .csv or .parquet.")
    if (args.results is None) == (args.references is None) or (args.results and args.predictions):
        raise ValueError("expected PRED and REF, or --results alone.")
    from nnunet_mamba.study.evaluation.protocols import check_metrics, get_protocol

    check_metrics(get_protocol(args.protocol), args.metrics)
    if args.folds and not args.results:
        raise ValueError("--folds goes with --results.")
    if others := [fold for fold in args.folds or () if fold != "all" and not fold.isdecimal()]:
        raise ValueError(f"--folds takes numbers or all, got {', '.join(others)}.")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs must be positive, got {args.jobs}.")


def _collect_folders(args: argparse.Namespace) -> Collected:
    """Return what is to be scored of PRED and REF."""
    from nnunet_mamba.nnunet.dataset_json import read_dataset_json
    from nnunet_mamba.study.evaluation.match import (
        find_dataset_json,
        match_cases,
    )
    from nnunet_mamba.study.evaluation.results import read_origin
    from nnunet_mamba.study.evaluation.table import override_origin

    file = args.dataset_json or find_dataset_json(args.predictions, args.references)
    dataset_json = read_dataset_json(file) if file else None
    ending = dataset_json["file_ending"] if dataset_json else None
    matched = match_cases(args.predictions, args.references, ending, args.reference_ending)
    config = _choose_config(args, dataset_json, matched)
    origin = override_origin(read_origin(args.predictions, args.references), args.origin)
    tasks = matched.make_tasks(config, origin, missing_as_empty=args.allow_missing)
    return tasks, matched.describe_missing(), matched.describe_extra()


def _collect_results(args: argparse.Namespace) -> Collected:
    """Return what is to be scored of nnU-Net's results."""
    from nnunet_mamba.nnunet.paths import resolve_results_folder
    from nnunet_mamba.study.evaluation.evaluate import check_unique_cases
    from nnunet_mamba.study.evaluation.results import find_runs
    from nnunet_mamba.study.evaluation.table import override_origin

    raw, preprocessed = (_folder_or_none(name) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    found_in = [
        find_runs(resolve_results_folder(name), raw, preprocessed, args.dataset_json, args.folds)
        for name in args.results
    ]
    runs = list({run.predictions: run for of_folder, _ in found_in for run in of_folder}.values())
    problems = list(dict.fromkeys(text for _, of_folder in found_in for text in of_folder))
    tasks: list[EvaluationTask] = []
    missing: list[str] = []
    for run in runs:
        matched = run.match_cases()
        config = _choose_config(args, run.description, matched)
        found = run.make_tasks(matched, config, missing_as_empty=args.allow_missing)
        tasks += [replace(task, origin=override_origin(task.origin, args.origin)) for task in found]
        missing += matched.describe_missing()
        problems += matched.describe_extra()
    check_unique_cases(tasks)
    return tasks, missing, problems


def _choose_config(
    args: argparse.Namespace, dataset_json: dict[str, Any] | None, matched: MatchedCases
) -> EvaluationConfig:
    from nnunet_mamba.study.evaluation.config import choose_config, parse_tolerances
    from nnunet_mamba.study.evaluation.protocols import get_protocol

    return choose_config(
        dataset_json,
        matched.references.values(),
        labels=args.labels,
        regions=args.regions,
        instances=args.instances,
        metrics=tuple(args.metrics),
        protocol=get_protocol(args.protocol),
        tolerances_mm=parse_tolerances(args.tolerance_mm),
        empty=args.empty,
        spacing_mm=tuple(args.spacing) if args.spacing else None,
    )


def _folder_or_none(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def _list() -> int:
    """Print the metrics, and the protocols with what they compute."""
    from nnunet_mamba.study.evaluation import METRICS, PROTOCOLS

    print("metrics: " + ", ".join(METRICS))
    for protocol in PROTOCOLS.values():
        print(f"{protocol.name}: {protocol.difference}")
        print(f"    computes {', '.join(protocol.measures)}; shows {', '.join(protocol.shown)}")
    return 0


def _print_scores(scores: list[Score]) -> None:
    """Print a table per method and seed, over all folds but `all`, which has its own."""
    from nnunet_mamba.study.statistics.result_tables import build_score_table

    def group(score: Score) -> tuple[str, ...]:
        seen = "trained on these cases" if score.fold == "all" else ""
        seed = f"seed {score.seed}" if score.seed else ""
        return score.dataset, score.trainer, score.plans, score.configuration, seed, seen

    for key, members in groupby(sorted(scores, key=group), group):
        rows = list(members)
        n_cases = len({row.case for row in rows})
        folds = sorted({row.fold for row in rows} - {""})
        title = " ".join(part for part in key if part) or "predictions"
        protocols = dict.fromkeys(row.protocol for row in rows)
        where = f", fold {' '.join(folds)}" if folds else ""
        print(f"{title}{where}: {n_cases} cases, {'; '.join(protocols)}")
        print(build_score_table(rows).render_text())


def _progress_bar() -> Callable[[int, int], None]:
    """Return a function that draws a progress bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    bar: Any = None

    def report_progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit=" cases", file=sys.stderr, disable=None, leave=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report_progress
