"""nnunet-mamba export-onnx: a trained model as ONNX, with what surrounds the network."""

from __future__ import annotations

import argparse
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunet_mamba.cli.model_options import FOLDS, check_model, load_weights
from nnunet_mamba.nnunet.checkpoints import FINAL
from nnunet_mamba.nnunet.version import get_installed_version

OLDEST = {"torch": (2, 8), "onnx": (1, 19), "onnxscript": (0, 7), "onnxruntime": (1, 23)}  # docs/onnx.md


def add(commands: Any) -> None:
    p = commands.add_parser(
        "export-onnx",
        allow_abbrev=False,
        description="Write a network per fold, fold_F.onnx, and model.json: spacing, normalisation, patch,\n"
        "mirroring, labels. scripts/onnx_predict.py predicts with them as nnU-Net does, by onnxruntime\n"
        "and numpy alone. Models that it could not reproduce are refused.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: nnunet-mamba export-onnx TRAINER__PLANS__CONFIGURATION hippocampus_onnx -f 0 1",
    )
    p.add_argument("model", metavar="FOLDER", type=Path, help="of a trained model, in nnUNet_results")
    p.add_argument("out", metavar="OUT", type=Path, help="new folder")
    p.add_argument(
        "-f", nargs="+", default=FOLDS, metavar="FOLD", help="their logits are averaged; default: 0 1 2 3 4"
    )
    p.add_argument("-chk", default=FINAL, metavar="FILE", help=f"default: {FINAL}")
    p.set_defaults(run=export_onnx)


def export_onnx(args: argparse.Namespace) -> int:
    check_request(args)
    from nnunet_mamba.inference.onnx_export import TOLERANCE, export_onnx_model

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # else a line for each step that it leaves out
    predictor = load_weights(args.model, args.f, args.chk, "cpu", allow_tqdm=False)
    for name, difference in export_onnx_model(predictor, args.f, args.out).items():
        rounding = ", rounding that torch's have, too" if difference > TOLERANCE else ""
        print(f"{name}: onnxruntime's logits are torch's within {difference:.0e} of the largest{rounding}")
    print(f"{args.out}: model.json, for scripts/onnx_predict.py")
    return 0


def check_request(args: argparse.Namespace) -> None:
    """Raise ValueError, before heavy imports, for what is missing or in the way."""
    if not args.model.is_dir():
        raise ValueError(f"{args.model} does not exist; expected a folder TRAINER__PLANS__CONFIGURATION.")
    check_model(args.model, args.f, args.chk)
    if args.out.exists():
        raise ValueError(f"{args.out} exists already; remove it, or choose another place.")
    if missing := [name for name in OLDEST if find_spec(name) is None]:
        raise ValueError(f"export-onnx needs {', '.join(missing)}: pip install {' '.join(missing)}")
    check_versions()


def check_versions() -> None:
    """Raise ValueError for packages with which no export was seen to work; one that is installed under
    another name, such as onnxruntime-gpu, passes."""
    for name, oldest in OLDEST.items():
        found = get_installed_version(name)
        if found and tuple(map(int, found.split(".")[:2])) < oldest:
            title, bound = "PyTorch" if name == "torch" else name, ".".join(map(str, oldest))
            raise ValueError(
                f"export-onnx needs {title} {bound} or newer; {found} is installed: "
                f"pip install '{name}>={bound}'"
            )
