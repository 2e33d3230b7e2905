"""nnunet-mamba quickstart: from images to a scored page."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    p = commands.add_parser(
        "quickstart",
        description="Runs nnU-Net's own commands on a data set, printing each: plan, preprocess, train, "
        "predict and score cases that were kept unseen, one page. Interrupted, the same command resumes.",
        epilog="example: nnunet-mamba quickstart --data Task04_Hippocampus --out hippocampus",
    )
    p.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="a Medical Segmentation Decathlon task or an nnU-Net raw dataset (default: phantoms drawn here)",
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("quickstart"),
        help="where all goes (default: ./quickstart)",
    )
    p.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="default: cuda if there is one, else cpu",
    )
    p.add_argument("--trainer", help="nnU-Net trainer (default: nnUNetTrainerMMUNet_demo)")
    p.add_argument(
        "--configuration", default="3d_fullres", help="nnU-Net configuration (default: %(default)s)"
    )
    p.add_argument(
        "--cases",
        type=int,
        default=8,
        metavar="N",
        help="labelled cases to keep unseen and score (default: %(default)s)",
    )
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the phantoms and of the choice of unseen cases (default: %(default)s)",
    )
    p.set_defaults(run=quickstart)


def quickstart(args: argparse.Namespace) -> int:
    if args.cases < 1:
        raise ValueError(f"--cases {args.cases}: at least one case has to be kept unseen.")
    if args.data is not None:
        from nnunet_mamba.study.datasets.source import read_description

        read_description(args.data.resolve())
    if args.trainer is not None:
        check_trainer(args.trainer)
    log("loading PyTorch")
    from nnunet_mamba.study.sweep.quickstart import DEMO_TRAINER, Settings, run_quickstart
    from nnunet_mamba.study.sweep.run_job import JobFailedError

    device = default_device() if args.device == "auto" else args.device
    trainer = args.trainer or DEMO_TRAINER
    settings = Settings(args.data, device, trainer, args.configuration, args.cases, args.seed)
    try:
        run_quickstart(settings, args.out, log)
    except JobFailedError as error:
        print(f"nnunet-mamba quickstart: {error}", file=sys.stderr)
        return 1
    return 0


def check_trainer(name: str) -> None:
    """Raise ValueError for a trainer that is neither ours nor written in nnU-Net's folder, if nnU-Net would
    look nowhere else; it takes seconds to say so itself."""
    from nnunet_mamba.nnunet.catalogue import format_unknown_trainer, list_trainer_names
    from nnunet_mamba.nnunet.commands import EXTERNAL
    from nnunet_mamba.nnunet.register import SHIM_NAME
    from nnunet_mamba.nnunet.version import find_trainer_folder

    if name in list_trainer_names() or os.environ.get(EXTERNAL):
        return
    others = (file for file in find_trainer_folder().rglob("*.py") if file.stem != SHIM_NAME)
    may_have_it = re.compile(rf"^class {re.escape(name)}\b|import \*", re.MULTILINE)
    if not any(may_have_it.search(file.read_text(encoding="utf-8", errors="replace")) for file in others):
        raise ValueError(
            f"--trainer: {format_unknown_trainer(name)} (Those of others are found by {EXTERNAL}.)"
        )


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def log(text: str) -> None:
    print(text, flush=True)
