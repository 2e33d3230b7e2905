"""Export of a trained model of nnU-Net: weights, plans, dataset.json, a card; nothing that can run code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import __version__ as torch_version

from nnunet_mamba import __version__
from nnunet_mamba.io.atomic import atomic_directory, write_json, write_text
from nnunet_mamba.io.tables import Table
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.nnunet.checkpoints import FINAL
from nnunet_mamba.nnunet.paths import Method, parse_method
from nnunet_mamba.nnunet.trained_plans import check_trained_plans
from nnunet_mamba.nnunet.version import get_nnunet_version
from nnunet_mamba.sharing.card import Card, FoldFacts, Words, render_card
from nnunet_mamba.sharing.manifest import (
    CARD,
    DATASET,
    FOLD,
    FORMAT,
    MANIFEST,
    NAME,
    PLANS,
    FoldRecord,
    Manifest,
    compute_digest,
    is_dataset_name,
    list_files,
    read_manifest,
    record_name,
    weights_name,
)
from nnunet_mamba.sharing.split import describe_splits
from nnunet_mamba.sharing.untrusted import read_description, read_plans
from nnunet_mamba.sharing.weights import count_parameters, write_weights

DESCRIBES_MODEL = {  # keys of dataset.json that are exported; others may list cases, or where files lie
    *("channel_names", "modality", "labels", "regions_class_order", "file_ending", "numTraining"),
    *("overwrite_image_reader_writer", "name", "description", "reference", "licence", "license", "release"),
}
NO_WORDS = Words()


def export_model(
    folder: Path,
    out: Path,
    *,
    folds: Sequence[str] | None = None,
    checkpoint: str = FINAL,
    words: Words = NO_WORDS,
    scores: Sequence[Table] = (),
) -> Manifest:
    """Write an export of a trained folder TRAINER__PLANS__CONFIGURATION, complete or not at all.

    Args:
        out: the folder to make.
        folds: numbers or "all"; None: all that have the checkpoint, see `find_folds`.
        words: what the exporter says of the model on its card.
        scores: tables for the card.

    Checkpoints are read without running code of theirs. ValueError for a folder that is no trained model, for
    folds without the checkpoint, for plans that the weights were not trained with, or that name code which
    importers would refuse. FileExistsError if `out` exists.
    """
    folder = folder.resolve()
    method = _parse_folder(folder)
    folds = find_folds(folder, folds, checkpoint)
    plans = read_plans(folder / PLANS, method.configuration)
    description = read_description(folder / DATASET)
    dataset, versions = get_dataset(folder), _get_versions()
    with atomic_directory(out) as draft:
        facts = [_export_fold(folder, fold, checkpoint, method, draft) for fold in folds]
        (draft / PLANS).write_bytes((folder / PLANS).read_bytes())
        _export_description(folder / DATASET, description, draft / DATASET)
        card = Card(
            method=method,
            dataset=dataset,
            plans=plans,
            description=description,
            checkpoint=checkpoint,
            folds=facts,
            words=words,
            scores=scores,
            split=describe_splits(folder, dataset, folds, description["file_ending"]),
            versions=versions,
        )
        write_text(draft / CARD, render_card(card))
        manifest = {
            "format": FORMAT,
            "dataset": dataset,
            **method._asdict(),
            "checkpoint": checkpoint,
            "folds": folds,
            "versions": versions,
            "files": {name: compute_digest(draft / name) for name in list_files(folds)},
        }
        write_json(draft / MANIFEST, manifest)
        return read_manifest(draft)  # what an import would refuse is refused here


def get_dataset(folder: Path) -> str:
    """Return the dataset of a trained folder: by the folder above it, else by its plans."""
    folder = folder.resolve()
    name = folder.parent.name
    if not is_dataset_name(name):
        name = str(read_plans(folder / PLANS, _parse_folder(folder).configuration).get("dataset_name"))
    if not is_dataset_name(name):
        raise ValueError(
            f"{folder} is of no dataset: neither the folder above it nor its plans (dataset_name: {name}) "
            "name one, as Dataset027_ACDC. Put it into a folder of such a name."
        )
    return name


def _parse_folder(folder: Path) -> Method:
    method = parse_method(folder.name)
    if method is None or not all((folder / name).is_file() for name in (PLANS, DATASET)):
        raise ValueError(
            f"{folder} is not a trained folder of nnU-Net; expected "
            f"nnUNet_results/DATASET/TRAINER__PLANS__CONFIG with {PLANS}, {DATASET} and fold_0."
        )
    if odd := [part for part in method if not re.fullmatch(NAME, part)]:
        raise ValueError(
            f"{folder} cannot be exported: {odd[0]!r} in its name has other signs than letters, digits, _ . "
            "and -. Plans may be renamed there; a configuration has to be trained by another name."
        )
    return method


def find_folds(folder: Path, wanted: Sequence[str] | None, checkpoint: str) -> list[str]:
    """Return the folds to export, in order. ValueError for those that lack the checkpoint, and for a folder
    that is no trained model."""
    _parse_folder(folder.resolve())
    there = {file.parent.name.removeprefix("fold_") for file in folder.glob(f"fold_*/{checkpoint}")}
    there = {fold for fold in there if re.fullmatch(FOLD, fold)}  # no copies, as fold_0_old
    missing = [fold for fold in wanted or () if fold not in there]
    if missing or not there:
        others = sorted({file.name for file in folder.glob("fold_*/checkpoint_*.pth")})
        raise ValueError(
            f"{folder} has no {checkpoint} of fold {', '.join(missing) or '0 or any other'}. There are "
            f"folds {', '.join(sorted(there)) or 'none'} with it; checkpoints of any fold: "
            f"{', '.join(others) or 'none'}."
        )
    return sorted(set(wanted or there))


def _export_fold(folder: Path, fold: str, checkpoint: str, method: Method, draft: Path) -> FoldFacts:
    """Write the weights of a fold and their record."""
    file = folder / f"fold_{fold}" / checkpoint
    content = load_restricted(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise ValueError(f"{file} is no checkpoint of nnU-Net: it has no network_weights.")
    known = content.get("init_args", {})
    trained = (content.get("trainer_name"), known.get("configuration"))
    if trained != (method.trainer, method.configuration):
        raise ValueError(
            f"{file} is of trainer {trained[0]} and configuration {trained[1]}, its folder's name says "
            f"{method.trainer} and {method.configuration}. Give the folder the name of its training."
        )
    check_trained_plans(folder / PLANS, file, known)
    weights = content["network_weights"]
    axes = content.get("inference_allowed_mirroring_axes")
    axes = None if axes is None else tuple(map(int, axes))
    shared = write_weights(weights, draft / weights_name(fold))
    record = FoldRecord(inference_allowed_mirroring_axes=axes, weights=shared)
    write_json(draft / record_name(fold), record.model_dump())
    epochs = content.get("current_epoch")
    return FoldFacts(fold, count_parameters(weights), epochs if isinstance(epochs, int) else None, axes)


def _export_description(file: Path, description: Mapping[str, Any], out: Path) -> None:
    """Write what of dataset.json describes the model: the file as it is, if that is all."""
    if set(description) <= DESCRIBES_MODEL:
        out.write_bytes(file.read_bytes())
    else:
        write_json(out, {key: value for key, value in description.items() if key in DESCRIBES_MODEL})


def _get_versions() -> dict[str, str]:
    return {
        "nnunet_mamba": __version__,
        "nnunetv2": get_nnunet_version() or "none",
        "torch": str(torch_version),
    }
