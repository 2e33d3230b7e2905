"""nnunet-mamba import-checkpoint: trained models of other repositories, for our trainers."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_mamba.cli import check_files

SOURCES = ("vm_unet", "mamba_unet", "swin_umamba", "segmamba")  # their weights determine the network's sizes


def add(commands: Any) -> None:
    p = commands.add_parser(
        "import-checkpoint",
        description=(
            "A trained folder (TRAINER__PLANS__CONFIGURATION) of U-Mamba's, Taming Mambas' or Swin-UMamba's "
            "fork becomes one for nnUNetv2_predict; a file of weights of VM-UNet, Mamba-UNet, Swin-UMamba or "
            "SegMamba becomes one for nnUNetv2_train -pretrained_weights. No code in the files is run."
        ),
    )
    p.add_argument("path", type=Path, help="the trained folder, or the file of weights")
    p.add_argument("--out", type=Path, help="what to write (default for folders: beside, under our trainer)")
    p.add_argument(
        "--source", choices=SOURCES, metavar="NAME", help=f"for a file, whose code: {', '.join(SOURCES)}"
    )
    p.add_argument(
        "--weights", default="auto", metavar="ENTRY", help="for a file, which of its weights, as model_ema"
    )
    p.add_argument("--channels", type=int, help="for a file, input channels (1 where one was repeated to 3)")
    p.set_defaults(run=import_checkpoint)


def import_checkpoint(args: argparse.Namespace) -> int:
    if not args.path.is_dir():
        check_files([args.path], "a trained folder, or a file of weights")
    from nnunet_mamba.trainers.import_fork import import_folder, import_weights

    if args.path.is_dir():
        print(f"{import_folder(args.path, args.out)} is ready for nnUNetv2_predict_from_modelfolder.")
        return 0
    if args.source is None or args.out is None:
        raise ValueError("A file of weights needs --source (whose code it is) and --out (the file to write).")
    done = import_weights(args.path, args.source, args.out, entry=args.weights, channels=args.channels)
    arguments = ", ".join(f"{key}={value}" for key, value in done.arguments.items())
    print(f"Took {done.taken} of {args.path}.")
    print(f"{args.out} holds {done.network} with {arguments}.")
    print(
        "Begin training from it with nnUNetv2_train ... -pretrained_weights, if the sizes are the trainer's."
    )
    return 0
