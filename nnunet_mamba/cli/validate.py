"""nnunet-mamba validate: validation cases of trained folds again, under other conditions."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba import __version__
from nnunet_mamba.cli.model_options import (
    add_conditions,
    add_machine,
    add_model,
    check_given,
    find_model,
    load_predictor,
)
from nnunet_mamba.cli.predict import predict_cases
from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.cpu import allocate_on_huge_pages
from nnunet_mamba.nnunet.dataset_json import get_channels
from nnunet_mamba.nnunet.paths import Method, find_dataset, get_nnunet_folder
from nnunet_mamba.nnunet.preprocessing import get_configuration
from nnunet_mamba.nnunet.version import get_nnunet_version

if TYPE_CHECKING:  # heavy imports are inside functions
    from torch import Tensor

    from nnunet_mamba.inference import BatchedPredictor
    from nnunet_mamba.inference.cases import Case
    from nnunet_mamba.inference.conditions import Conditions
    from nnunet_mamba.inference.preprocessed_cases import PreprocessedCases

VALIDATION = "validation"
MISSING = "Preprocess it as for the training: nnUNetv2_plan_and_preprocess."
RECORD = "conditions.json"  # in the folder of a fold
COMPARED = ("model", "checkpoint", "conditions")  # what of it all folds have in common
EXAMPLE = """\
example:
  nnunet-mamba validate -d 4 -c 3d_fullres -tr nnUNetTrainerMMUNet --name nomixer --without-mixer -device cpu
  nnunet-mamba evaluate --results 4"""


def add(commands: Any) -> None:
    p = commands.add_parser(
        "validate",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="nnunet-mamba validate -d DATASET -c CONFIG -tr TRAINER --name NAME [conditions] [options]",
        description="Predict the validation cases of trained folds again, under other conditions. Label\n"
        "maps go to DATASET/TRAINER@NAME__PLANS__CONFIG/fold_F/validation, which `evaluate`, `compare` and\n"
        "`report` read as of any other trainer. Without conditions they are those of the training.\n"
        "Exit code 1: cases have no label map, and are named; 2: no case can be predicted.",
        epilog=EXAMPLE,
    )
    model = p.add_argument_group("model")
    add_model(model, "each with its own cases")
    results = p.add_argument_group("results")
    results.add_argument("--name", metavar="NAME", help="of the conditions: letters, digits, _ . + and -")
    results.add_argument("-o", type=Path, metavar="FOLDER", help="in place of nnUNet_results")
    results.add_argument(
        "--continue_prediction", "--c", action="store_true", help="skip cases that have a label map"
    )
    results.add_argument(
        "--mixed",
        action="store_true",
        help="also where other folds of this name are of other conditions, which are to be made anew",
    )
    conditions = p.add_argument_group("conditions")
    add_conditions(conditions)
    conditions.add_argument(
        "--gamma",
        type=float,
        default=1.0,
        metavar="G",
        help="raise each channel to this power between its least and largest value",
    )
    conditions.add_argument(
        "--brightness",
        type=float,
        default=0.0,
        metavar="B",
        help="add to each channel, in its standard deviations after preprocessing",
    )
    conditions.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="SD",
        help="add white noise to each channel, in the same unit; by the case's name, so repeatable",
    )
    add_machine(p.add_argument_group("machine"))
    p.set_defaults(run=validate, uncertainty=None, save_probabilities=False)


def validate(args: argparse.Namespace) -> int:
    check_given(args, "-d", "-c", "--name")
    check_name(args.name)
    model = find_model(args)
    cases = find_validation_cases(model.parent.name, args.f)
    conditions = read_conditions(args)
    out = find_output(model, args)
    record = describe(model, args.chk, conditions)
    check_records(out, args.f if args.mixed else None, record)
    data = find_preprocessed(model, args.c)
    allocate_on_huge_pages()
    from nnunet_mamba.inference.model import hash_weights

    codes = []
    for fold, names in cases.items():
        start = time.perf_counter()
        predictor = load_predictor(args, model, [fold])
        source = open_cases(predictor, model, data)
        targets = choose_targets(source, names, out / f"fold_{fold}" / VALIDATION)
        own = {**record, "weights": hash_weights(predictor.list_of_parameters)}
        left = skip_finished(args, targets, predictor.dataset_json["file_ending"], own["weights"])
        write_records(out, fold, predictor, own)
        read = partial(read_changed, source, conditions, len(get_channels(predictor.dataset_json)))
        codes.append(predict_cases(args, predictor, left, start, read))
        print(f"fold {fold} -> {out / f'fold_{fold}' / VALIDATION}")
    return max(codes)


def check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name) or "__" in name:
        raise ValueError(
            f"--name is {name!r}; expected letters, digits, _ . + and -, and no __, which separates trainer, "
            "plans and configuration."
        )


def read_conditions(args: argparse.Namespace) -> Conditions:
    """Return the conditions of the options. ValueError for values that mean nothing."""
    from nnunet_mamba.inference.conditions import Conditions

    return Conditions(
        without_mixer=args.without_mixer,
        mirroring=not args.disable_tta,
        step_size=args.step_size,
        gamma=args.gamma,
        brightness=args.brightness,
        noise=args.noise,
    )


def find_validation_cases(dataset: str, folds: Sequence[str]) -> dict[str, tuple[str, ...] | None]:
    """Return the validation cases of each fold, by the split of the trainings; None, all cases, for fold all.

    ValueError for folds that the split does not have.
    """
    from nnunet_mamba.study.evaluation.splits import read_validation_folds

    if set(folds) == {"all"}:
        return {"all": None}
    file = find_dataset("nnUNet_preprocessed", dataset, MISSING) / "splits_final.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; expected the split of the trainings. {MISSING}")
    splits = read_validation_folds(file)
    assert splits.cases is not None  # there is a file
    if unknown := [fold for fold in folds if not splits.has(fold)]:
        raise ValueError(f"{file} has {splits.n_folds} folds, from 0, and no {', '.join(unknown)}.")
    return {fold: None if fold == "all" else splits.cases[int(fold)] for fold in folds}


def find_preprocessed(model: Path, configuration: str) -> Path:
    """Return the folder of the data that a model is trained on. ValueError if it does not exist."""
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    own = get_configuration(plans, configuration)
    name = own.get("data_identifier", f"{plans['plans_name']}_{configuration}")  # nnU-Net's default
    folder = find_dataset("nnUNet_preprocessed", model.parent.name, MISSING) / name
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist; validation cases are read from there. {MISSING}")
    return folder


def find_output(model: Path, args: argparse.Namespace) -> Path:
    """Return the folder of the predictions of all folds."""
    results = args.o or get_nnunet_folder("nnUNet_results")
    return results / model.parent.name / str(Method(args.tr, args.p, args.c).under(args.name))


def describe(model: Path, checkpoint: str, conditions: Conditions) -> dict[str, Any]:
    """Return the content of a fold's RECORD but for its weights."""
    return {
        "model": model.name,
        "checkpoint": checkpoint,
        "conditions": asdict(conditions),
        "versions": {
            "nnunet_mamba": __version__,
            "nnunetv2": get_nnunet_version(),
            "torch": version("torch"),
        },
    }


def read_record(fold: Path) -> dict[str, Any]:
    """Return what a fold was made under; nothing if that is not known."""
    try:
        record = json.loads((fold / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def check_records(out: Path, folds: Sequence[str] | None, record: dict[str, Any]) -> None:
    """Raise ValueError if folds (None: any) have predictions of other conditions than `record` has."""
    wanted = {key: record[key] for key in COMPARED}
    for fold in sorted(out.glob("fold_*")):
        if not (fold / VALIDATION).is_dir() or (folds and fold.name.removeprefix("fold_") not in folds):
            continue
        found = read_record(fold)
        if {key: found.get(key) for key in COMPARED} != wanted:
            made = {key: found.get(key) for key in COMPARED} if found else f"unknown conditions (no {RECORD})"
            raise ValueError(
                f"{fold} was made under {made}; now asked for are {wanted}. Choose another "
                "--name, or remove it."
            )


def open_cases(predictor: BatchedPredictor, model: Path, data: Path) -> PreprocessedCases:
    """Return the cases that a model can be validated on."""
    from nnunet_mamba.inference.preprocessed_cases import PreprocessedCases

    previous, stage = predictor.configuration_manager.previous_stage_name, None
    if previous is not None:
        method = Method(*model.name.split("__"))
        stage = model.with_name(str(method._replace(configuration=previous)))
        stage = stage / "predicted_next_stage" / method.configuration
    return PreprocessedCases(data, stage, predictor.label_manager)


def choose_targets(source: PreprocessedCases, names: Sequence[str] | None, folder: Path) -> list[Case]:
    """Return the cases of a fold (None: all), whose label maps go to a folder. ValueError for cases that are
    not preprocessed."""
    from nnunet_mamba.inference.cases import Case
    from nnunet_mamba.trainers.folds import check_preprocessed

    present = source.names()
    names = present if names is None else sorted(names)
    check_preprocessed(names, present, str(source.folder))
    if not names:
        raise ValueError(f"There are no validation cases for {folder.parent.name}; leave it out of -f.")
    return [Case(name, (), folder / name) for name in names]


def write_records(out: Path, fold: str, predictor: BatchedPredictor, record: dict[str, Any]) -> None:
    """Write what `evaluate` reads of a model, and what the fold is made under."""
    write_json(out / "plans.json", predictor.plans_manager.plans, shared=True)
    write_json(out / "dataset.json", predictor.dataset_json, shared=True)
    write_json(out / f"fold_{fold}" / RECORD, record)


def skip_finished(args: argparse.Namespace, cases: list[Case], ending: str, weights: str) -> list[Case]:
    """Return the cases of a fold without a label map that these weights made.

    That is all of them without --continue_prediction, or if the network was trained again: earlier label maps
    are removed.
    """
    folder = cases[0].target.parent
    left = [case for case in cases if not Path(f"{case.target}{ending}").is_file()]
    is_continued = args.continue_prediction and read_record(folder.parent).get("weights") == weights
    if is_continued:
        print(f"{len(cases) - len(left)} of {len(cases)} cases are finished and skipped.")
        return left
    if args.continue_prediction and len(left) < len(cases):
        print(f"{folder} is not known to be made with these weights; all its cases are predicted again.")
    if folder.is_dir():
        shutil.rmtree(folder)
    return cases


def read_changed(
    source: PreprocessedCases, conditions: Conditions, n_channels: int, case: Case
) -> tuple[Tensor, dict]:
    """Return the preprocessed image of a case under the conditions, and its properties."""
    image, properties = source.read(case.name)
    return conditions.change_image(image, case.name, n_channels), properties
