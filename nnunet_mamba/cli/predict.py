"""nnunet-mamba predict: label maps of images, by any trained nnU-Net model."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.io.cpu import allocate_on_huge_pages
from nnunet_mamba.io.messages import find_closest_names
from nnunet_mamba.nnunet.checkpoints import CHECKPOINTS, FINAL
from nnunet_mamba.nnunet.paths import find_dataset, parse_method

if TYPE_CHECKING:  # heavy imports are inside functions
    from nnunet_mamba.inference import BatchedPredictor
    from nnunet_mamba.inference.cases import Case, Outcome

SHOWN = 8  # most lines that list trained models
FOLDS = ["0", "1", "2", "3", "4"]  # nnU-Net's default
EXAMPLE = """\
The options of nnUNetv2_predict have their meaning. Cite nnU-Net: Isensee et al., Nature Methods 18 (2021).

example:
  nnunet-mamba predict -i imagesTs -o predicted -d 4 -c 3d_fullres -tr nnUNetTrainerMMUNet -f 0 -device cpu"""


def add(commands: Any) -> None:
    p = commands.add_parser(
        "predict",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="nnunet-mamba predict -i IMAGES -o OUTPUT (-d DATASET -c CONFIG ... | -m MODEL) [options]",
        description="Predict label maps with any trained nnU-Net model: nnUNetv2_predict with mirrored\n"
        "copies and tiles in batches, and without its slow export. Finds our trainers without `register`.\n"
        "Exit code 1: cases have no label map, and are named; 2: no case can be predicted.",
        epilog=EXAMPLE,
    )
    images = p.add_argument_group("images")
    images.add_argument("-i", type=Path, metavar="FOLDER", help="images: CASE_0000.nii.gz, ...")
    images.add_argument("-o", type=Path, metavar="FOLDER", help="where the label maps go")
    images.add_argument(
        "-prev_stage_predictions", type=Path, metavar="FOLDER", help="label maps of a cascade's first stage"
    )
    images.add_argument(
        "-num_parts", type=int, default=1, metavar="N", help="split the cases over N commands"
    )
    images.add_argument("-part_id", type=int, default=0, metavar="K", help="which one this is, from 0")
    images.add_argument(
        "--continue_prediction", "--c", action="store_true", help="skip cases that have a label map"
    )
    model = p.add_argument_group("model")
    model.add_argument("-d", metavar="DATASET", help="number or name")
    model.add_argument("-c", metavar="CONFIG", help="2d, 3d_fullres, ...")
    model.add_argument("-tr", default="nnUNetTrainer", metavar="TRAINER", help="default: nnUNetTrainer")
    model.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="default: nnUNetPlans")
    model.add_argument("-m", metavar="FOLDER", help="a trained folder, in place of -d, -c, -tr and -p")
    model.add_argument("-f", nargs="+", default=FOLDS, metavar="FOLD", help="averaged; default: 0 1 2 3 4")
    model.add_argument("-chk", default=FINAL, metavar="FILE", help=f"default: {FINAL}")
    how = p.add_argument_group("prediction")
    how.add_argument("-device", choices=("cuda", "cpu", "mps"), default="cuda", help="default: cuda")
    how.add_argument("-step_size", type=float, default=0.5, metavar="S", help="in patches, default: 0.5")
    how.add_argument("--disable_tta", action="store_true", help="no mirrored copies: faster, a little worse")
    how.add_argument("--save_probabilities", action="store_true", help="for ensembles: CASE.npz and CASE.pkl")
    how.add_argument(
        "--uncertainty",
        nargs="?",
        const="disagreement",
        choices=("disagreement", "entropy"),
        help="of folds and mirrored copies: disagreement/CASE.nii.gz and uncertainty.csv (or entropy/...)",
    )
    how.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="patches per forward pass at most, rounded down to a power of two (default: by the device)",
    )
    how.add_argument("--threads", type=int, metavar="N", help="on the CPU (default: physical cores)")
    how.add_argument("--not_on_device", action="store_true", help="sum up tiles on the CPU, for large images")
    for name in ("-npp", "-nps"):
        how.add_argument(
            name,
            type=int,
            default=1,
            metavar="N",
            help="0 for both: read and write only while the network rests (always so on the CPU)",
        )
    how.add_argument("--disable_progress_bar", action="store_true", help="no bar of tiles")
    how.add_argument(
        "--verbose", action="store_true", help="nnU-Net's own lines, and where an error came from"
    )
    p.set_defaults(run=predict)


def predict(args: argparse.Namespace) -> int:
    model = check_request(args)
    allocate_on_huge_pages()
    start = time.perf_counter()
    from nnunet_mamba.inference.model import check_stage, load_model, write_settings
    from nnunet_mamba.nnunet.commands import EXTERNAL, get_trainer_folders

    os.environ[EXTERNAL] = get_trainer_folders()
    predictor = load_model(
        model,
        args.f,
        args.chk,
        args.device,
        tile_step_size=args.step_size,
        uncertainty=args.uncertainty,
        use_mirroring=not args.disable_tta,
        perform_everything_on_device=not args.not_on_device,
        allow_tqdm=not args.disable_progress_bar,
        verbose=args.verbose,
        batch_size=args.batch_size,
        n_threads=args.threads,
    )
    check_stage(predictor, args.prev_stage_predictions)
    cases = choose_cases(args, predictor.dataset_json["file_ending"])
    write_settings(args.o, predictor, vars(args))
    return predict_cases(args, predictor, cases, start)


def choose_cases(args: argparse.Namespace, ending: str) -> list[Case]:
    """Return the cases of this command: of its part, and not finished if those are to be skipped."""
    from nnunet_mamba.inference.cases import check_previous_stage, find_cases
    from nnunet_mamba.inference.uncertainty import map_file

    def is_finished(case: Case) -> bool:
        files = [Path(f"{case.target}{ending}")]
        files += [Path(f"{case.target}.npz")] if args.save_probabilities else []
        files += [map_file(case.target, args.uncertainty)] if args.uncertainty else []
        return all(file.is_file() for file in files)

    cases = find_cases(args.i, args.o, ending, args.prev_stage_predictions)[args.part_id :: args.num_parts]
    if args.continue_prediction:
        left = [case for case in cases if not is_finished(case)]
        print(f"{len(cases) - len(left)} of {len(cases)} cases are finished and skipped.")
        cases = left
    check_previous_stage(cases)
    return cases


def predict_cases(
    args: argparse.Namespace, predictor: BatchedPredictor, cases: list[Case], start: float
) -> int:
    """Predict the cases with a line for each, and return the exit code. `start`: of the command, for its
    time."""
    from nnunet_mamba.inference.cases import CasePredictor, describe_error, format_stages, summarise

    failed: list[str] = []

    def report(outcome: Outcome) -> None:
        case, number = outcome.case.name, cases.index(outcome.case) + 1
        print(f"{case} ({number}/{len(cases)}): {format_stages(outcome.seconds)}", flush=True)
        if outcome.error is not None:
            print(f"nnunet-mamba predict: {describe_error(outcome)}", file=sys.stderr)
            failed.append(case)
            if args.verbose:
                traceback.print_exception(outcome.error)

    run = CasePredictor(
        predictor,
        save_probabilities=args.save_probabilities,
        overlap=args.device != "cpu" and (args.npp, args.nps) != (0, 0),
        report=report,
    )
    if run.exporter.obstacle:
        print(f"nnU-Net's own export, which is slower, makes the label maps: {run.exporter.obstacle}.")
    outcomes = run.predict(cases)
    print(summarise(outcomes, time.perf_counter() - start))
    if failed:
        print(f"No label map was written for {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def check_request(args: argparse.Namespace) -> Path:
    """Return the folder of the trained model. Raises ValueError, before heavy imports, if it or the images do
    not exist; the message lists the models that do."""
    needed = ("i", "o", *(("m",) if args.m else ("d", "c")))
    if missing := [f"-{name}" for name in needed if getattr(args, name) is None]:
        raise ValueError(f"{', '.join(missing)} missing; `nnunet-mamba predict --help` describes them.")
    if not args.i.is_dir():
        raise ValueError(f"{args.i}, for -i, is not a folder; expected a folder of images.")
    if args.prev_stage_predictions and not args.prev_stage_predictions.is_dir():
        raise ValueError(f"{args.prev_stage_predictions}, for -prev_stage_predictions, is not a folder.")
    if not 0 <= args.part_id < args.num_parts:
        raise ValueError(f"-part_id is {args.part_id}; expected 0 to {args.num_parts - 1}, below -num_parts.")
    if not 0 < args.step_size <= 1:
        raise ValueError(f"-step_size is {args.step_size}; expected more than 0 and at most 1.")
    if args.m:
        model = Path(args.m)
        if not model.is_dir():
            raise ValueError(
                f"{model}, for -m, does not exist; expected a folder TRAINER__PLANS__CONFIGURATION."
            )
        if args.d or args.c:
            raise ValueError("-m names the model by its folder; leave -d and -c out.")
    else:
        dataset = find_dataset("nnUNet_results", args.d, "Nothing was trained on this dataset yet.")
        model = dataset / f"{args.tr}__{args.p}__{args.c}"
        if not model.is_dir():
            raise ValueError(f"{model} does not exist. {_trained(dataset, model.name)}")
    if lacking := [fold for fold in args.f if not (model / f"fold_{fold}" / args.chk).is_file()]:
        options = "\n".join(["There are:", *_options(model)])
        raise ValueError(f"{model.name} has no {args.chk} of fold {', '.join(lacking)}. {options}")
    if lost := [name for name in ("plans.json", "dataset.json") if not (model / name).is_file()]:
        raise ValueError(
            f"{model} lacks {' and '.join(lost)}, which nnU-Net wrote there when the training began. Copy "
            "the file from there, or from the folder of preprocessed data it was trained with."
        )
    return model


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
