"""nnunet-mamba predict: nnUNetv2_predict, several patches at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import find_closest_names
from nnunet_mamba.nnunet.checkpoints import CHECKPOINTS, FINAL
from nnunet_mamba.nnunet.paths import find_dataset, parse_method

NOT_CHECKED = ("-device", "-step_size", "-npp", "-nps", "-prev_stage_predictions", "-num_parts", "-part_id")
SHOWN = 8  # most lines that list trained models
FOLDS = ("0", "1", "2", "3", "4")  # nnU-Net's default
NNUNET_OPTIONS = """\
options of nnUNetv2_predict, passed on:
  -i FOLDER  -o FOLDER   images (CASE_0000.nii.gz, ...), and where the label maps go
  -d DATASET -c CONFIG   number or name; 2d, 3d_fullres, ...
  -tr TRAINER -p PLANS   default: nnUNetTrainer, nnUNetPlans
  -f FOLD ...            default: 0 1 2 3 4, averaged
  -chk FILE              default: checkpoint_final.pth
  -m FOLDER              a trained folder, in place of -d, -c, -tr and -p
  -device cpu|cuda|mps   default: cuda
  -step_size S           of the sliding window, default: 0.5 of a patch
  --disable_tta          without mirrored copies: faster, a little worse
  --save_probabilities   for ensembles
  --continue_prediction  keep the label maps that are there
  -npp N -nps N          processes that read images and write label maps, default: 3
`nnUNetv2_predict -h` has them all.

example:
  nnunet-mamba predict -i imagesTs -o predicted -d 4 -c 3d_fullres -tr nnUNetTrainerMMUNet -f 0 -device cpu"""


def add(commands: Any) -> None:
    p = commands.add_parser(
        "predict",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="nnunet-mamba predict [--batch-size N] [--threads N] (options of nnUNetv2_predict)",
        description="nnUNetv2_predict with mirrored copies and tiles in batches; finds our trainers without "
        "`register`.\nExit code 1: cases have no label map, and are named; 2: weights hold NaN or infinity.",
        epilog=NNUNET_OPTIONS,
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
    check_request(args.others)
    from nnunet_mamba.inference import run_nnunet_predict
    from nnunet_mamba.nnunet.commands import EXTERNAL, get_trainer_folders

    os.environ[EXTERNAL] = get_trainer_folders()
    failed: list[str] = []

    def note(case: str, error: str) -> None:
        print(f"nnunet-mamba predict: {error}", file=sys.stderr)
        failed.append(case)

    run_nnunet_predict(args.others, note, batch_size=args.batch_size, n_threads=args.threads)
    if failed:
        print(f"No label map was written for {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def check_request(words: Sequence[str]) -> None:
    """Raise ValueError, before heavy imports, if the images or the trained model do not exist; the message
    lists the models that do."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("-i", "-o", "-d", "-c", "-m", *NOT_CHECKED):
        parser.add_argument(name)
    parser.add_argument("-tr", default="nnUNetTrainer")
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-chk", default=FINAL)
    parser.add_argument("-f", nargs="+", default=FOLDS)
    try:
        given, _ = parser.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    needed = ("i", "o", *(("m",) if given.m else ("d", "c")))
    if missing := [f"-{name}" for name in needed if getattr(given, name) is None]:
        raise ValueError(f"{', '.join(missing)} missing; `nnunet-mamba predict --help` describes them.")
    if not Path(given.i).exists():
        raise ValueError(f"{given.i}, for -i, does not exist; expected a folder of images.")
    if given.m:
        model = Path(given.m)
        if not model.is_dir():
            raise ValueError(
                f"{model}, for -m, does not exist; expected a folder TRAINER__PLANS__CONFIGURATION."
            )
    else:
        dataset = find_dataset("nnUNet_results", given.d, "Nothing was trained on this dataset yet.")
        model = dataset / f"{given.tr}__{given.p}__{given.c}"
        if not model.is_dir():
            raise ValueError(f"{model} does not exist. {_trained(dataset, model.name)}")
    if lacking := [fold for fold in given.f if not (model / f"fold_{fold}" / given.chk).is_file()]:
        options = "\n".join(["There are:", *_options(model)])
        raise ValueError(f"{model.name} has no {given.chk} of fold {', '.join(lacking)}. {options}")


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
        names = f"-tr {method.trainer} -p {method.plans} -c {method.configuration}"
    else:
        names = f"-m {model}"
    lines = []
    done: set[str] = set()
    for checkpoint in CHECKPOINTS:
        folds = {file.parent.name[5:] for file in model.glob(f"fold_*/{checkpoint}")} - done
        done |= folds
        if folds:
            chk = "" if checkpoint == FINAL else f" -chk {checkpoint}"
            lines.append(f"  {names} -f {' '.join(sorted(folds))}{chk}")
    return lines
