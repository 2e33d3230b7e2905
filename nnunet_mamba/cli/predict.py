"""nnunet-mamba predict: nnUNetv2_predict, several patches at once."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any


def add(commands: Any) -> None:
    p = commands.add_parser(
        "predict",
        allow_abbrev=False,
        usage="nnunet-mamba predict [--batch-size N] [--threads N] (options of nnUNetv2_predict)",
        description="Takes every option of nnUNetv2_predict (`nnUNetv2_predict -h`), or with -m FOLDER those "
        "of nnUNetv2_predict_from_modelfolder, and finds our trainers without `register`. Exit code 1: cases "
        "have no label map, and are named; 2: weights hold NaN or infinity.",
        epilog="example: nnunet-mamba predict -i imagesTs -o predicted -d 4 -c 3d_fullres "
        "-tr nnUNetTrainerMMUNet -f 0 -device cpu",
    )
    p.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="patches per forward pass at most, rounded down to a power of two (default: by the device)",
    )
    p.add_argument(
        "--threads", type=int, metavar="N", help="of the forward pass on the CPU (default: physical cores)"
    )
    p.set_defaults(run=predict, others=[])


def predict(args: argparse.Namespace) -> int:
    from nnunet_mamba.prediction import run_nnunets_predict
    from nnunet_mamba.running.command import EXTERNAL, trainer_folders

    os.environ[EXTERNAL] = trainer_folders()
    failed: list[str] = []

    def note(case: str, error: str) -> None:
        print(f"nnunet-mamba predict: {error}", file=sys.stderr)
        failed.append(case)

    run_nnunets_predict(args.others, note, batch_size=args.batch_size, n_threads=args.threads)
    if failed:
        print(f"No label map was written for {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0
