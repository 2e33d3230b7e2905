"""nnunet-mamba export-model: a trained model to share, without anything that can run code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli import check_files
from nnunet_mamba.cli.compare import TABLE
from nnunet_mamba.nnunet.checkpoints import FINAL

if TYPE_CHECKING:  # heavy imports are inside functions
    from nnunet_mamba.io.tables import Table
    from nnunet_mamba.study.evaluation import Score


def add(commands: Any) -> None:
    p = commands.add_parser(
        "export-model",
        description="Writes weights as safetensors, plans, dataset.json and a card (README.md) of a trained "
        "folder TRAINER__PLANS__CONFIG into a new folder. It holds no code, no image, no name of a case, "
        "and no state of the optimizer. `import-model` makes a trained folder of it, weights equal to the "
        "last bit.",
        epilog="example: nnunet-mamba export-model nnUNet_results/Dataset027_ACDC/"
        "nnUNetTrainerMMUNet__nnUNetPlans__3d_fullres acdc_model --scores acdc.csv --licence cc-by-4.0",
    )
    p.add_argument("folder", metavar="FOLDER", type=Path, help="as nnU-Net trained it, in nnUNet_results")
    p.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    p.add_argument("-f", nargs="+", metavar="FOLD", help="default: all that have the checkpoint")
    p.add_argument("-chk", default=FINAL, metavar="FILE", help=f"default: {FINAL}")
    card = p.add_argument_group("card")
    card.add_argument("--scores", type=Path, metavar="TABLE", help="that `evaluate --out` wrote")
    card.add_argument("--licence", default="", metavar="NAME", help="of the weights, as cc-by-4.0")
    card.add_argument("--name", default="", metavar="TEXT", help="title (default: network and dataset)")
    card.add_argument("--description", default="", metavar="TEXT", help="what it is for, and what it is not")
    card.add_argument("--cite", default="", metavar="TEXT", help="the work to cite for this model")
    hub = p.add_argument_group("Hugging Face hub (pip install huggingface-hub)")
    hub.add_argument("--push", default="", metavar="OWNER/NAME", help="upload the export, too")
    hub.add_argument("--private", action="store_true", help="into a private repository")
    p.set_defaults(run=export)


def export(args: argparse.Namespace) -> int:
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder} does not exist; expected a folder TRAINER__PLANS__CONFIG.")
    check_files([args.scores] if args.scores else [], TABLE)
    if args.private and not args.push:
        raise ValueError("--private is about --push OWNER/NAME, which is missing.")
    from nnunet_mamba.sharing import hub
    from nnunet_mamba.sharing.card import Words
    from nnunet_mamba.sharing.export_model import export_model, find_folds

    if args.push:
        hub.check_repo(args.push)
        hub.load_api()
    folds = find_folds(args.folder, args.f, args.chk)
    scores = tabulate_scores(args.scores, args.folder, folds) if args.scores else []
    words = Words(args.name, args.description, args.licence, args.cite, args.push)
    manifest = export_model(
        args.folder, args.out, folds=folds, checkpoint=args.chk, words=words, scores=scores
    )
    print(f"-> {args.out}: {manifest.method} of {manifest.dataset}, fold {' '.join(manifest.folds)}")
    if not args.licence:
        print("The card says that there is no licence; --licence names one.")
    if args.push:
        print(f"-> {hub.push_export(args.out, args.push, private=args.private)}")
    return 0


def tabulate_scores(file: Path, folder: Path, folds: Sequence[str]) -> list[Table]:
    """Return the tables of a model's card: means per label, one table for each protocol and kind of cases.

    Args:
        file: table of scores.
        folder: of the trained model.
        folds: that are exported; scores of others are of other weights, and left out.

    ValueError if no row is of the model.
    """
    from nnunet_mamba.study.evaluation import read_table

    scores = read_table(file)
    origin = find_origin(folder)
    own = [
        score
        for score in scores
        if all(getattr(score, column) in ("", value) for column, value in origin.items())
        and score.fold in ("", "test", *folds)
    ]
    if not own:
        there = sorted({f"{s.dataset} {s.method} fold {s.fold} {s.seed}".strip() for s in scores})
        raise ValueError(
            f"{file} has no scores of {' '.join(filter(None, origin.values()))}, fold {' '.join(folds)}; it "
            f"has {'; '.join(there[:5]) or 'none'}. Score this model: nnunet-mamba "
            "evaluate --results DATASET --out TABLE."
        )
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in own:
        kind = score.fold if score.fold in ("", "all", "test") else "validation"
        groups.setdefault((score.protocol, kind), []).append(score)
    return [_tabulate(protocol, kind, group) for (protocol, kind), group in groups.items()]


def find_origin(folder: Path) -> dict[str, str]:
    """Return the columns of a table of scores that are of a trained folder."""
    from nnunet_mamba.nnunet.paths import parse_method
    from nnunet_mamba.sharing.export_model import get_dataset
    from nnunet_mamba.study.evaluation.results import SEED

    folder = folder.resolve()
    seed = SEED.fullmatch(folder.parents[1].name)
    method = parse_method(folder.name)
    assert method is not None  # `find_folds` has refused others
    return {"dataset": get_dataset(folder), **method._asdict(), "seed": seed[1] if seed else ""}


def _tabulate(protocol: str, kind: str, scores: Sequence[Score]) -> Table:
    """Return labels by metrics: mean ± SD over cases, and their number."""
    from nnunet_mamba.io.tables import Table
    from nnunet_mamba.study.evaluation import compute_foreground_mean, summarise
    from nnunet_mamba.study.statistics.formats import (
        DASH,
        format_folds,
        format_label,
        format_metric,
        format_spread,
        format_value,
    )

    cases = {
        "validation": f"cross-validation, fold {format_folds(score.fold for score in scores)}",
        "all": "fold all, on the cases that it was trained on",
        "test": "test cases",
        "": "cases whose fold the table does not tell",
    }[kind]
    summaries = {((row.label, row.label_name), row.metric): row for row in summarise(scores)}
    labels = list(dict.fromkeys(label for label, _ in summaries))
    metrics = list(dict.fromkeys(metric for _, metric in summaries))

    def cell(label: tuple[str, str], metric: str) -> str:
        row = summaries.get((label, metric))
        return f"{format_spread(row.mean, row.sd, metric)} ({row.n_cases})" if row else DASH

    rows = [[format_label(label), *(cell(label, metric) for metric in metrics)] for label in labels]
    means = [format_value(compute_foreground_mean(scores, metric), metric) for metric in metrics]
    n_cases = len({score.case for score in scores})
    unnamed = [] if all(score.trainer for score in scores) else ["The table does not name the model scored."]
    return Table(
        header=["label", *(format_metric(metric, protocol) for metric in metrics)],
        rows=[*rows, ["mean of the labels", *means]],
        title=f"Protocol {protocol or 'not recorded'}; {cases}; {n_cases} case{'s' * (n_cases != 1)}.",
        notes=["Mean ± SD over cases, in brackets the cases where the metric is defined.", *unnamed],
    )
