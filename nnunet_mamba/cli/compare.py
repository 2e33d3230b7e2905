"""nnunet-mamba compare: paired tests, intervals and rankings of methods, from tables of scores."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_mamba.cli import check_files

DEFAULTS = {  # of the options about tables of scores
    "metric": "dice",
    "baseline": None,
    "group": None,
    "margin": None,
    "seed": 0,
    "n_bootstrap": 10_000,
}
TABLE = "a table that `nnunet-mamba evaluate --out` wrote (.csv or .parquet)"


def add(commands: Any) -> None:
    p = commands.add_parser(
        "compare",
        description="Reads the tables that `evaluate --out` wrote and compares their methods (trainer, "
        "plans, configuration) case by case: each network with its twin without SSM and its size-matched "
        "twin, those under another condition with themselves, then all with the baseline; and ranks them. "
        "Refuses tables that differ in protocol, cases, folds, labels or numbers of seeds.",
        epilog="example: nnunet-mamba compare acdc.csv --group 'patient\\d+' --out comparison",
    )
    p.add_argument("tables", metavar="TABLE", nargs="*", type=Path, help="tables of scores, .csv or .parquet")
    p.add_argument("--metric", help="one of the tables' metrics (default: dice)")
    p.add_argument(
        "--baseline", metavar="METHOD", help="default: nnU-Net's own trainer, else the first by name"
    )
    p.add_argument(
        "--group",
        metavar="REGEX",
        help="the part of a case's name that is the patient's (ACDC: 'patient\\d+'; default: all)",
    )
    p.add_argument(
        "--margin",
        type=float,
        metavar="X",
        help="difference, in the metric's unit, below which methods count as equivalent: also tests that",
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="a folder for Markdown, JSON and CSV, or a file that ends in .md, .json or .csv",
    )
    p.add_argument(
        "--published",
        action="store_true",
        help="instead of tables: how likely papers' printed differences are false; --out takes a .md",
    )
    p.add_argument("--seed", type=int, metavar="N", help="of the resamples (default: 0)")
    p.add_argument("--n-bootstrap", type=int, metavar="N", help="resamples (default: 10000)")
    p.set_defaults(run=compare, **DEFAULTS)


def compare(args: argparse.Namespace) -> int:
    if args.published == bool(args.tables):
        raise ValueError("expected tables of scores, or --published alone.")
    if args.published:
        if given := [name for name, default in DEFAULTS.items() if getattr(args, name) != default]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{options}: about tables of scores; expected --published with --out or alone.")
        return _audit(args.out)
    check_files(args.tables, TABLE)
    from nnunet_mamba.study import statistics
    from nnunet_mamba.study.evaluation import read_method_table

    if args.out and args.out.suffix not in ("", ".md", ".json", ".csv"):
        raise ValueError(f"--out {args.out} should be a folder, or end in .md, .json or .csv.")
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}.")
    scores = [score for table in args.tables for score in read_method_table(table)]
    results = statistics.compare(
        scores,
        metric=args.metric,
        baseline=args.baseline,
        group=args.group,
        margin=args.margin,
        n_bootstrap=args.n_bootstrap,
        seed=args.seed,
    )
    print(statistics.as_text(results))
    if args.out:
        print()
        for file in statistics.write_results(results, args.out):
            print(f"-> {file}")
    return 0


def _audit(out: Path | None) -> int:
    """Print the audit of papers' numbers, or write it."""
    from nnunet_mamba.io.atomic import write_text
    from nnunet_mamba.io.document import render_markdown
    from nnunet_mamba.study.report.audit import build_audit

    text = render_markdown(build_audit())
    if out is None:
        print(text, end="")
        return 0
    if out.suffix != ".md":
        raise ValueError(f"--out {out} should end in .md.")
    write_text(out, text)
    print(f"-> {out}")
    return 0
