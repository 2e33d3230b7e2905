"""Options of the verbs that predict with a trained model, and what they refuse before heavy imports."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.io.messages import find_closest_names
from nnunet_mamba.nnunet.checkpoints import CHECKPOINTS, FINAL
from nnunet_mamba.nnunet.paths import Method, find_dataset, parse_method

if TYPE_CHECKING:
    from nnunet_mamba.inference import BatchedPredictor

SHOWN = 8  # most lines that list trained models
FOLDS = ["0", "1", "2", "3", "4"]  # nnU-Net's default


def add_model(group: Any, folds: str) -> None:
    """Add the options that name a trained model; `folds` tells what happens to its folds."""
    group.add_argument("-d", metavar="DATASET", help="number or name")
    group.add_argument("-c", metavar="CONFIG", help="2d, 3d_fullres, ...")
    group.add_argument("-tr", default="nnUNetTrainer", metavar="TRAINER", help="default: nnUNetTrainer")
    group.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="default: nnUNetPlans")
    group.add_argument("-f", nargs="+", default=FOLDS, metavar="FOLD", help=f"{folds}; default: 0 1 2 3 4")
    group.add_argument("-chk", default=FINAL, metavar="FILE", help=f"default: {FINAL}")


def add_conditions(group: Any) -> None:
    """Add the options about network and sliding window that change predictions."""
    group.add_argument("-step_size", type=float, default=0.5, metavar="S", help="in patches, default: 0.5")
    group.add_argument("--disable_tta", action="store_true", help="no mirrored copies: faster, a bit worse")
    group.add_argument(
        "--without-mixer",
        action="store_true",
        help="switch the trained network's mixers off, to see what it has learnt to do with them",
    )


def add_machine(group: Any) -> None:
    """Add the options about where and how fast cases are predicted, and what is printed."""
    group.add_argument("-device", choices=("cuda", "cpu", "mps"), default="cuda", help="default: cuda")
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="patches per forward pass at most, rounded down to a power of two (default: by the device)",
    )
    group.add_argument("--threads", type=int, metavar="N", help="on the CPU (default: physical cores)")
    group.add_argument("--not_on_device", action="store_true", help="sum tiles up on the CPU: large images")
    for name in ("-npp", "-nps"):
        group.add_argument(
            name,
            type=int,
            default=1,
            metavar="N",
            help="0 for both: read and write only while the network rests (always so on the CPU)",
        )
    group.add_argument("--disable_progress_bar", action="store_true", help="no bar of tiles")
    group.add_argument(
        "--verbose", action="store_true", help="nnU-Net's own lines, and where an error came from"
    )


def load_predictor(args: argparse.Namespace, model: Path, folds: Sequence[str]) -> BatchedPredictor:
    """Return a predictor with the weights of some folds, as the options say."""
    return load_weights(
        model,
        folds,
        args.chk,
        args.device,
        uncertainty=args.uncertainty,
        without_mixer=args.without_mixer,
        tile_step_size=args.step_size,
        use_mirroring=not args.disable_tta,
        perform_everything_on_device=not args.not_on_device,
        allow_tqdm=not args.disable_progress_bar,
        verbose=args.verbose,
        batch_size=args.batch_size,
        n_threads=args.threads,
    )


def load_weights(
    model: Path, folds: Sequence[str], checkpoint: str, device: str, **options: Any
) -> BatchedPredictor:
    """Return a predictor with the weights of a trained folder or an export; `options` are of `load_model`."""
    from nnunet_mamba.inference.model import load_model
    from nnunet_mamba.nnunet.commands import EXTERNAL, get_trainer_folders
    from nnunet_mamba.sharing.import_model import open_model

    os.environ[EXTERNAL] = get_trainer_folders()
    with open_model(model, folds) as trained:
        return load_model(trained, folds, checkpoint, device, **options)


def check_given(args: argparse.Namespace, *needed: str) -> None:
    """Raise ValueError for options that are missing."""
    if missing := [option for option in needed if getattr(args, option.lstrip("-")) is None]:
        raise ValueError(f"{', '.join(missing)} missing; `nnunet-mamba {args.verb} --help` describes them.")


def check_step_size(args: argparse.Namespace) -> None:
    if not 0 < args.step_size <= 1:
        raise ValueError(f"-step_size is {args.step_size}; expected more than 0 and at most 1.")


def find_model(args: argparse.Namespace) -> Path:
    """Return the folder of the trained model that the options name. ValueError if it, or what is asked of it,
    does not exist."""
    dataset = find_dataset("nnUNet_results", args.d, "Nothing was trained on this dataset yet.")
    method = Method(args.tr, args.p, args.c)
    model = dataset / str(method)
    if method.condition:
        trainer = method.trained.trainer
        raise ValueError(
            f"{args.tr} is no trainer, but {trainer} as `nnunet-mamba validate` has predicted with it under "
            f"some conditions, and has no weights of its own. Give -tr {trainer}, with those as options."
        )
    if not model.is_dir():
        raise ValueError(f"{model} does not exist. {_trained(dataset, model.name)}")
    check_model(model, args.f, args.chk)
    return model


def check_model(model: Path, folds: Sequence[str], checkpoint: str) -> None:
    """Raise ValueError for a folder of a trained model that lacks a fold's checkpoint, or nnU-Net's files;
    for an export that lacks a fold."""
    from nnunet_mamba.sharing.manifest import check_folds, is_export, read_manifest

    if is_export(model):
        if checkpoint != FINAL:
            raise ValueError(f"{model} is an export, which has one checkpoint of each fold; leave -chk out.")
        check_folds(model, read_manifest(model), folds)
        return
    if lacking := [fold for fold in folds if not (model / f"fold_{fold}" / checkpoint).is_file()]:
        options = "\n".join(["There are:", *_options(model)])
        raise ValueError(f"{model.name} has no {checkpoint} of fold {', '.join(lacking)}. {options}")
    if lost := [name for name in ("plans.json", "dataset.json") if not (model / name).is_file()]:
        raise ValueError(
            f"{model} lacks {' and '.join(lost)}, which nnU-Net wrote there when the training began. Copy "
            "the file from there, or from the folder of preprocessed data it was trained with."
        )


def _trained(dataset: Path, wanted: str) -> str:
    """List the options for the trained models of a dataset, a line each, those similar to `wanted` first."""
    names = sorted(path.name for path in dataset.iterdir() if parse_method(path.name))
    near = find_closest_names(wanted, names)
    lines = [
        line
        for name in (*near, *(name for name in names if name not in near))
        for line in _options(dataset / name)
    ]
    if not lines:
        return "Nothing was trained to a checkpoint there yet."
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(["Trained there are:", *lines[:SHOWN], *more])


def _options(model: Path) -> list[str]:
    """List the options for the folds of a model, a line for each kind of checkpoint that any fold has."""
    if method := parse_method(model.name):
        names = shlex.join(("-tr", method.trainer, "-p", method.plans, "-c", method.configuration))
    else:
        names = shlex.join(("-m", str(model)))
    lines = []
    done: set[str] = set()
    for checkpoint in CHECKPOINTS:
        folds = {file.parent.name[5:] for file in model.glob(f"fold_*/{checkpoint}")} - done
        done |= folds
        if folds:
            chk = "" if checkpoint == FINAL else f" -chk {checkpoint}"
            lines.append(f"  {names} -f {' '.join(sorted(folds))}{chk}")
    return lines
