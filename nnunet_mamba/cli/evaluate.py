"""nnunet-mamba evaluate: predicted label maps against references, or nnU-Net's results of a dataset."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.study.evaluation.folders import Matched
    from nnunet_mamba.study.evaluation.scoring import Rules, Task
    from nnunet_mamba.study.evaluation.table import Origin, Score


def add(commands: Any) -> None:
    p = commands.add_parser(
        "evaluate",
        description="Matches cases by name and scores every label of each. Exit code 1: cases or folds are "
        "missing, or there are predictions without a reference, or folds that the split does not have.",
        epilog="example: nnunet-mamba evaluate predictions labelsTs --tolerance-mm 2 --out scores.csv",
    )
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
        help="what the table says of PRED: dataset, trainer, plans, configuration, fold",
    )
    p.add_argument(
        "--out", type=Path, metavar="TABLE", help="a row per case, label and metric: .csv or .parquet"
    )
    p.add_argument("-j", "--jobs", type=int, metavar="N", help="threads (default: processors, 8 at most)")
    p.add_argument("--list", action="store_true", help="show the metrics and protocols")
    p.set_defaults(run=evaluate)


def evaluate(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.out and args.out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{args.out} should end in .csv or .parquet.")
    if (args.results is None) == (args.references is None) or (args.results and args.predictions):
        raise ValueError("expected PRED and REF, or --results alone.")
    from nnunet_mamba.study.evaluation.protocols import protocol_of, require_metrics

    require_metrics(protocol_of(args.protocol), tuple(args.metrics))
    if args.folds and not args.results:
        raise ValueError("--folds goes with --results.")
    if strange := [fold for fold in args.folds or () if fold != "all" and not fold.isdecimal()]:
        raise ValueError(f"--folds takes numbers or all, got {', '.join(strange)}.")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs must be positive, got {args.jobs}.")
    tasks, missing, faults = _of_results(args) if args.results else _of_folders(args)
    if not tasks:
        for text in [*missing, *faults]:
            print(f"incomplete: {text}", file=sys.stderr)
        print("There is nothing to score.", file=sys.stderr)
        return 1

    from nnunet_mamba.io.cpu import usable_cpus
    from nnunet_mamba.study.evaluation.scoring import score_tasks
    from nnunet_mamba.study.evaluation.table import write_table

    jobs = args.jobs or min(usable_cpus(), 8)
    scores = score_tasks(tasks, jobs=jobs, progress=_progress())
    _print_scores(scores)
    for text in missing:
        print(f"scored as empty: {text}" if args.allow_missing else f"incomplete: {text}", file=sys.stderr)
    for fault in faults:
        print(f"incomplete: {fault}", file=sys.stderr)
    if args.out:
        write_table(scores, args.out)
        print(f"{len(scores)} rows -> {args.out}")
    return 1 if faults or (missing and not args.allow_missing) else 0


def _of_folders(args: argparse.Namespace) -> tuple[list[Task], list[str], list[str]]:
    """What to score, what of it has no prediction, and what else is wrong."""
    from nnunet_mamba.study.evaluation.folders import match_cases, read_description
    from nnunet_mamba.study.evaluation.results import dataset_json_near, origin_of

    file = args.dataset_json or dataset_json_near(args.predictions, args.references)
    description = read_description(file) if file else None
    ending = description["file_ending"] if description else None
    matched = match_cases(args.predictions, args.references, ending, args.reference_ending)
    origin = origin_of(args.predictions)
    if not origin.fold and args.references.resolve().name == "labelsTs":
        origin = replace(origin, fold="test")
    tasks = matched.tasks(
        _rules(args, description, matched), _with(origin, args.origin), missing_as_empty=args.allow_missing
    )
    return tasks, matched.lacking(), matched.superfluous()


def _of_results(args: argparse.Namespace) -> tuple[list[Task], list[str], list[str]]:
    from nnunet_mamba.nnunet.paths import results_folder
    from nnunet_mamba.study.evaluation.results import find_runs

    raw, preprocessed = (_folder_or_none(name) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    found_in = [
        find_runs(results_folder(name), raw, preprocessed, args.dataset_json, args.folds)
        for name in args.results
    ]
    runs = list({run.predictions: run for of_folder, _ in found_in for run in of_folder}.values())
    faults = list(dict.fromkeys(fault for _, of_folder in found_in for fault in of_folder))
    tasks: list[Task] = []
    missing: list[str] = []
    for run in runs:
        matched = run.matched()
        rules = _rules(args, run.description, matched)
        found = run.tasks(matched, rules, missing_as_empty=args.allow_missing)
        tasks += [replace(task, origin=_with(task.origin, args.origin)) for task in found]
        missing += matched.lacking()
        faults += matched.superfluous()
    _refuse_twice(tasks)
    return tasks, missing, faults


def _refuse_twice(tasks: Iterable[Task]) -> None:
    """ValueError for a case that two folders hold, of which the table would not tell which is whose."""
    known: dict[tuple[Origin, str], Task] = {}
    for task in tasks:
        other = known.setdefault((task.origin, task.case), task)
        if other is not task:
            raise ValueError(
                f"{task.case} would be scored twice as one: {other.prediction} and {task.prediction} have "
                "the same trainer, plans, configuration and fold. Score one folder, or each by itself."
            )


def _rules(args: argparse.Namespace, description: dict[str, Any] | None, matched: Matched) -> Rules:
    from nnunet_mamba.study.evaluation.folders import rules_of, rules_of_references
    from nnunet_mamba.study.evaluation.labels import chosen_labels, region, require_values, scored_labels
    from nnunet_mamba.study.evaluation.scoring import Rules

    choices: dict[str, Any] = {
        "metrics": tuple(args.metrics),
        "protocol": args.protocol,
        "tolerances_mm": _tolerances(args.tolerance_mm),
        "empty": args.empty,
        "instances": args.instances,
        "spacing_mm": tuple(args.spacing) if args.spacing else None,
    }
    known = scored_labels(description)[0] if description else ()
    labels = tuple(region(text) for text in args.regions) or chosen_labels(known, args.labels)
    if args.instances and not labels:
        labels = chosen_labels(known, ["1"])
    if labels:
        choices["labels"] = tuple(dict.fromkeys(labels))
    if description:
        require_values(labels, description)
        return rules_of(description, **choices)
    return Rules(**choices) if labels else rules_of_references(matched, **choices)


def _tolerances(texts: Iterable[str]) -> dict[str, float]:
    """2 -> for every label; liver=5 -> for one."""
    found = {}
    for text in texts:
        label, _, number = text.rpartition("=")
        try:
            found[label] = float(number)
        except ValueError as error:
            raise ValueError(f"{text!r} is no tolerance; expected 2 or LABEL=2, in mm.") from error
    return found


def _with(origin: Origin, texts: Iterable[str]) -> Origin:
    columns = [field.name for field in fields(origin)]
    for text in texts:
        column, _, value = text.partition("=")
        if column not in columns:
            raise ValueError(
                f"{text!r} is no column; expected {', '.join(columns)}, as in trainer=nnUNetTrainer."
            )
        origin = replace(origin, **{column: value})
    return origin


def _folder_or_none(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def _list() -> int:
    from nnunet_mamba.study.evaluation import METRICS, PROTOCOLS

    print("metrics: " + ", ".join(METRICS))
    for protocol in PROTOCOLS.values():
        print(f"{protocol.name}: {protocol.difference}")
        print(f"    computes {', '.join(protocol.measures)}; shows {', '.join(protocol.shown)}")
    return 0


def _print_scores(scores: list[Score]) -> None:
    """A table per trainer, plans and configuration, over all of its folds but `all`, which has its own."""
    from nnunet_mamba.study.evaluation.table import mean_foreground, summarise

    def group(score: Score) -> tuple[str, ...]:
        seen = "trained on these cases" if score.fold == "all" else ""
        return score.dataset, score.trainer, score.plans, score.configuration, seen

    for key, members in groupby(sorted(scores, key=group), group):
        rows = list(members)
        n_cases = len({row.case for row in rows})
        folds = sorted({row.fold for row in rows} - {""})
        title = " ".join(part for part in key if part) or "predictions"
        protocols = dict.fromkeys(row.protocol for row in rows)
        where = f", fold {' '.join(folds)}" if folds else ""
        print(f"{title}{where}: {n_cases} cases, {'; '.join(protocols)}")
        names = {row.label: f"{row.label} {row.label_name}".strip() for row in rows}
        width = max(5, *map(len, names.values()))
        print(f"  {'label':{width}s}  {'metric':12s} {'mean':>9s} {'SD':>9s} {'n':>5s} {'excluded':>8s}")
        for row in summarise(rows):
            name = names[row.label]
            numbers = f"{row.mean:9.4f} {row.sd:9.4f} {row.n_cases:5d} {row.n_excluded:8d}"
            print(f"  {name:{width}s}  {row.metric:12s} {numbers}")
        for metric in dict.fromkeys(row.metric for row in rows):
            print(f"  {'mean':{width}s}  {metric:12s} {mean_foreground(rows, metric):9.4f}")


def _progress() -> Callable[[int, int], None]:
    """A bar where somebody looks at it, else nothing."""
    from tqdm import tqdm

    bar: Any = None

    def tell(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit=" cases", file=sys.stderr, disable=None, leave=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return tell
