"""nnunet-mamba export-model: a trained model to share, without anything that can run code."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_mamba.cli import check_files
from nnunet_mamba.cli.compare import TABLE
from nnunet_mamba.nnunet.checkpoints import FINAL


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
    from nnunet_mamba.sharing.scores import tabulate_scores

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
