"""nnunet-mamba report: one page about one method or several, from tables of scores and nnU-Net's results."""

import argparse
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunet_mamba.cli import check_files
from nnunet_mamba.cli.compare import TABLE


def add(commands: Any) -> None:
    p = commands.add_parser(
        "report",
        description="Reads the tables that `evaluate --out` wrote, of one dataset and one method or several, "
        "and writes report.html, which needs nothing but a browser, and report.md; of one method also a "
        "picture, report.png. With --results also what nnU-Net's logs and label maps tell. Refuses tables "
        "that cannot be compared.",
        epilog="example: nnunet-mamba report acdc.csv --results 27 --group 'patient\\d+' --out acdc_report",
    )
    p.add_argument("tables", metavar="TABLE", nargs="+", type=Path, help="tables of scores, .csv or .parquet")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for report.html and report.md")
    p.add_argument(
        "--results",
        metavar="DATASET_OR_FOLDER",
        help="a dataset's results, by number, name or folder: curves, time, worst cases",
    )
    p.add_argument(
        "--predictions",
        nargs="+",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="label maps of a test set, which are not in --results: a folder per method, in order of tables",
    )
    p.add_argument("--references", type=Path, metavar="FOLDER", help="the true label maps of --predictions")
    p.add_argument("--images", type=Path, metavar="FOLDER", help="default: imagesTs beside labelsTs")
    p.add_argument("--dataset", metavar="NAME", help="of the tables' datasets (default: the only one)")
    p.add_argument(
        "--protocol", metavar="NAME", help="only rows scored by it (default: all, which must agree)"
    )
    p.add_argument(
        "--baseline", metavar="METHOD", help="default: nnU-Net's own trainer, else the first by name"
    )
    p.add_argument(
        "--group", metavar="REGEX", help="the part of a case's name that is the patient's (default: all)"
    )
    p.add_argument(
        "--margin",
        nargs="+",
        default=[],
        metavar="METRIC=X",
        help="differences below which methods count as equivalent: dice=0.01 hd95=0.5",
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples (default: 0)")
    p.add_argument("--n-bootstrap", type=int, default=10_000, metavar="N", help="resamples (default: 10000)")
    p.add_argument(
        "--note", default="", metavar="TEXT", help="shown on top, e.g. that the data are simulated"
    )
    p.set_defaults(run=report)


def report(args: argparse.Namespace) -> int:
    check_files(args.tables, TABLE)
    from nnunet_mamba.nnunet.paths import resolve_results_folder
    from nnunet_mamba.study.report import ReportRequest, collect_study_report, write_study_report

    request = ReportRequest(
        tables=args.tables,
        results=None if args.results is None else resolve_results_folder(args.results),
        predictions=args.predictions,
        references=args.references,
        images=args.images,
        dataset=args.dataset,
        protocol=args.protocol,
        baseline=args.baseline,
        group=args.group,
        margins=parse_margins(args.margin),
        seed=args.seed,
        n_bootstrap=args.n_bootstrap,
        command=_format_command(args),
        note=args.note,
    )
    content = collect_study_report(request)
    for file in write_study_report(content, args.out):
        print(f"-> {file}")
    for line in content.left_out:
        print(f"left out: {line}", file=sys.stderr)
    return 0


def parse_margins(texts: Iterable[str]) -> dict[str, float]:
    """Return the margins by metric, given as METRIC=NUMBER. ValueError for other texts."""
    from nnunet_mamba.study.statistics.compare import higher_is_better

    margins = {}
    for text in texts:
        metric, _, number = text.partition("=")
        higher_is_better(metric)  # ValueError for an unknown metric
        try:
            margins[metric] = float(number)
        except ValueError:
            raise ValueError(f"--margin {text!r} is not METRIC=NUMBER, as dice=0.01.") from None
    return margins


def _format_command(args: argparse.Namespace) -> str:
    """Return the command as it could be typed again."""
    words = ["nnunet-mamba", "report", *map(str, args.tables)]
    options = ("results", "predictions", "references", "images", "dataset", "protocol", "baseline", "group")
    defaults = {"seed": 0, "n_bootstrap": 10_000}
    for name in (*options, "margin", "seed", "n_bootstrap", "note", "out"):
        value = getattr(args, name)
        if value not in (None, "", [], defaults.get(name)):
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
