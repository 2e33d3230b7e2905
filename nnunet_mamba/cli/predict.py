"""nnunet-mamba predict: label maps of images, by any trained nnU-Net model."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli.model_options import (
    add_conditions,
    add_machine,
    add_model,
    check_given,
    check_model,
    check_step_size,
    find_model,
    load_predictor,
)
from nnunet_mamba.io.cpu import allocate_on_huge_pages

if TYPE_CHECKING:  # heavy imports are inside functions
    from nnunet_mamba.inference import BatchedPredictor
    from nnunet_mamba.inference.cases import Case, Outcome, ReadFn

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
    add_model(model, "averaged")
    model.add_argument("-m", metavar="FOLDER", help="a trained folder or an export, not -d, -c, -tr, -p")
    how = p.add_argument_group("prediction")
    add_conditions(how)
    how.add_argument("--save_probabilities", action="store_true", help="for ensembles: CASE.npz and CASE.pkl")
    how.add_argument(
        "--uncertainty",
        nargs="?",
        const="disagreement",
        choices=("disagreement", "entropy"),
        help="of folds and mirrored copies: disagreement/CASE.nii.gz and uncertainty.csv (or entropy/...)",
    )
    add_machine(p.add_argument_group("machine"))
    p.set_defaults(run=predict)


def predict(args: argparse.Namespace) -> int:
    model = check_request(args)
    allocate_on_huge_pages()
    start = time.perf_counter()
    predictor = load_predictor(args, model, args.f)
    from nnunet_mamba.inference.model import check_stage, write_settings

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
    args: argparse.Namespace,
    predictor: BatchedPredictor,
    cases: list[Case],
    start: float,
    read: ReadFn | None = None,
) -> int:
    """Predict the cases with a line for each, and return the exit code. `start`: of the command, for its
    time; `read`: CasePredictor's."""
    from nnunet_mamba.inference.cases import CasePredictor, describe_error, format_stages, summarise

    failed: list[str] = []

    def report(outcome: Outcome) -> None:
        case, number = outcome.case.name, cases.index(outcome.case) + 1
        print(f"{case} ({number}/{len(cases)}): {format_stages(outcome.seconds)}", flush=True)
        if outcome.error is not None:
            print(f"nnunet-mamba {args.verb}: {describe_error(outcome)}", file=sys.stderr)
            failed.append(case)
            if args.verbose:
                traceback.print_exception(outcome.error)

    run = CasePredictor(
        predictor,
        save_probabilities=args.save_probabilities,
        overlap=args.device != "cpu" and (args.npp, args.nps) != (0, 0),
        report=report,
        read=read,
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
    check_given(args, "-i", "-o", *(() if args.m else ("-d", "-c")))
    if not args.i.is_dir():
        raise ValueError(f"{args.i}, for -i, is not a folder; expected a folder of images.")
    if args.prev_stage_predictions and not args.prev_stage_predictions.is_dir():
        raise ValueError(f"{args.prev_stage_predictions}, for -prev_stage_predictions, is not a folder.")
    if not 0 <= args.part_id < args.num_parts:
        raise ValueError(f"-part_id is {args.part_id}; expected 0 to {args.num_parts - 1}, below -num_parts.")
    check_step_size(args)
    if not args.m:
        return find_model(args)
    model = Path(args.m)
    if not model.is_dir():
        raise ValueError(
            f"{model}, for -m, does not exist; expected a folder TRAINER__PLANS__CONFIGURATION or an export."
        )
    if args.d or args.c:
        raise ValueError("-m names the model by its folder; leave -d and -c out.")
    check_model(model, args.f, args.chk)
    return model
