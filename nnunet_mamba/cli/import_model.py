"""nnunet-mamba import-model: a shared model, from a folder or the hub, for nnU-Net and this package."""

import argparse
import shlex
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    p = commands.add_parser(
        "import-model",
        description="Turns an export of `export-model` into a trained folder, where `predict` and nnU-Net's "
        "own commands find it. Digests and names are checked before anything is written, no code of the "
        "files is run, and an existing folder is never written to.",
        epilog="example: nnunet-mamba import-model hf://OWNER/NAME --dataset Dataset527_ACDC",
    )
    p.add_argument("source", metavar="SOURCE", help="folder of an export, or hf://OWNER/NAME")
    p.add_argument("--revision", metavar="NAME", help="of the hub: branch, tag or commit (default: main)")
    p.add_argument("-f", nargs="+", metavar="FOLD", help="default: all of the export")
    p.add_argument("--dataset", metavar="NAME", help="Dataset123_Liver, if the exporter's number is taken")
    p.add_argument("-o", type=Path, metavar="FOLDER", help="in place of nnUNet_results")
    p.set_defaults(run=import_)


def import_(args: argparse.Namespace) -> int:
    from nnunet_mamba.nnunet.paths import get_nnunet_folder, list_nnunet_folders
    from nnunet_mamba.sharing import hub
    from nnunet_mamba.sharing.import_model import check_free_number, import_model
    from nnunet_mamba.sharing.manifest import check_folds, read_manifest

    results = args.o or get_nnunet_folder("nnUNet_results")
    is_on_hub = args.source.startswith(hub.SCHEME)
    if args.revision and not is_on_hub:
        raise ValueError(f"--revision is about {hub.SCHEME}OWNER/NAME; {args.source} is a folder.")
    if is_on_hub:
        repo = hub.check_repo(args.source.removeprefix(hub.SCHEME))
        source = hub.pull_export(repo, args.revision)
    else:
        source = Path(args.source)
        if not source.is_dir():
            raise ValueError(f"{source} does not exist; expected an export's folder, or hf://OWNER/NAME.")
    manifest = read_manifest(source)
    if args.o is None:
        check_free_number(args.dataset or manifest.dataset, list_nnunet_folders())
    folds = check_folds(source, manifest, args.f)
    folder = import_model(source, results, folds=folds, dataset=args.dataset)
    print(f"-> {folder}: fold {' '.join(folds)}, digests checked; licence and citation: README.md there")
    words = ("nnunet-mamba", "predict", "-i", "IMAGES", "-o", "OUT", "-m", str(folder), "-f", *folds)
    print(shlex.join(words))
    return 0
