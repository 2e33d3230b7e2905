"""A trained model of nnU-Net, loaded to predict with."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import OptimizedModule

from nnunet_mamba.inference.members import MembersPredictor
from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.networks.finite import guard_output
from nnunet_mamba.networks.twins import select_shared, without_mixers
from nnunet_mamba.nnunet.trained_plans import (
    check_readable_plans,
    check_trained_plans,
    read_trained_dataset,
)


def load_model(
    folder: Path,
    folds: Sequence[str],
    checkpoint: str,
    device: str,
    *,
    uncertainty: str | None = None,
    without_mixer: bool = False,
    **options: Any,
) -> BatchedPredictor:
    """Return a predictor with the weights of some folds of a folder TRAINER__PLANS__CONFIGURATION.

    Args:
        uncertainty: what a MembersPredictor is to measure; None: nothing, and no such predictor.
        without_mixer: switch the mixers of the trained network off, see `networks.twins`.
        options: BatchedPredictor's.

    Raises ValueError for a device that this machine lacks, for plans that the weights were not trained with,
    for plans and a dataset.json that lack what a prediction reads, for a trainer that is not found, a damaged
    checkpoint, a network without mixers to switch off, and for a single member that would have to disagree
    with itself.
    """
    _check_device(device)
    if device != "cuda":
        options["perform_everything_on_device"] = False
    with redirect_stdout(sys.stdout if options.get("verbose") else StringIO()):  # what it says of every CPU
        if uncertainty:
            options["uncertainty"] = uncertainty
        kind = MembersPredictor if uncertainty else BatchedPredictor
        predictor = kind(device=torch.device(device), **options)
    read_trained_dataset(folder / "dataset.json")
    numbers = [fold if fold == "all" else int(fold) for fold in folds]
    for number in numbers:
        check_plans(folder / "plans.json", folder / f"fold_{number}" / checkpoint)
    try:
        predictor.initialize_from_trained_model_folder(str(folder), numbers, checkpoint)
    except RuntimeError as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    if without_mixer:
        _switch_mixers_off(predictor)
    if isinstance(predictor, MembersPredictor):
        predictor.check_members()
    return predictor


def _switch_mixers_off(predictor: BatchedPredictor) -> None:
    """Put the twin in the place of a predictor's network, and what they share in that of its weights."""
    twin = without_mixers(predictor.network)
    predictor.list_of_parameters = [select_shared(twin, weights) for weights in predictor.list_of_parameters]
    guarded = guard_output(twin)
    is_compiled = isinstance(predictor.network, OptimizedModule)
    predictor.network = torch.compile(guarded) if is_compiled else guarded


def hash_weights(members: Sequence[Mapping[str, Tensor]]) -> str:
    """Return a checksum of the weights of an ensemble's members: their names and values."""
    checksum = hashlib.sha256()
    for weights in members:
        for name, values in weights.items():
            checksum.update(name.encode())
            checksum.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()[:16]


def check_stage(predictor: BatchedPredictor, previous_stage: Path | None) -> None:
    """Raise ValueError unless label maps of a previous stage are given to a cascade, and only to one."""
    name = predictor.configuration_manager.previous_stage_name
    if name is not None and previous_stage is None:
        raise ValueError(
            f"this network is the second stage of a cascade: predict with {name} first, and give the folder "
            "of its label maps as -prev_stage_predictions."
        )
    if name is None and previous_stage is not None:
        raise ValueError("this network has no previous stage; leave -prev_stage_predictions out.")


def check_plans(plans_file: Path, checkpoint: Path) -> None:
    """Raise ValueError if plans would show the network other images than it was trained with, or lack what a
    prediction reads.

    Checkpoints hold the plans of their training; those of other programs may not, and pass.
    """
    init_args = _read_checkpoint(checkpoint).get("init_args", {})
    if name := init_args.get("configuration"):
        check_readable_plans(plans_file, name)
    check_trained_plans(plans_file, checkpoint, init_args)


def _read_checkpoint(file: Path) -> dict:
    """Read a checkpoint, whose weights stay on the disk but for those in the format of old PyTorch."""
    try:
        return torch.load(file, map_location="cpu", weights_only=False, mmap=zipfile.is_zipfile(file))
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{file} is damaged ({error}). Copy it again, or give another by -chk.") from error


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no CUDA device here; -device cpu predicts without one.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("PyTorch finds no Metal device here; -device cpu predicts without one.")


def write_settings(folder: Path, predictor: BatchedPredictor, settings: dict[str, Any]) -> None:
    """Write beside predictions what nnU-Net's postprocessing and ensembling read there, and the command's
    settings; commands that share the cases (-num_parts) may be writing them at the same time."""
    contents = {
        "predict_from_raw_data_args": {k: str(value) for k, value in settings.items() if not callable(value)},
        "dataset": predictor.dataset_json,
        "plans": predictor.plans_manager.plans,
    }
    for name, content in contents.items():
        write_json(folder / f"{name}.json", content, shared=True)
