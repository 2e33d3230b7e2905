"""Import of an export: a trained folder that nnU-Net and this package predict with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from nnunet_mamba.io.atomic import atomic_directory
from nnunet_mamba.nnunet.checkpoints import FINAL
from nnunet_mamba.sharing.manifest import (
    DATASET,
    PLANS,
    SHARED,
    FoldRecord,
    check_digests,
    check_folds,
    is_dataset_name,
    is_export,
    list_files,
    read_manifest,
    read_record,
    record_name,
    weights_name,
)
from nnunet_mamba.sharing.untrusted import read_description, read_plans
from nnunet_mamba.sharing.weights import read_weights


def import_model(
    source: Path, results: Path, *, folds: Sequence[str] | None = None, dataset: str | None = None
) -> Path:
    """Write the trained folder DATASET/TRAINER__PLANS__CONFIGURATION of an export, complete or not at all.

    Args:
        source: the export.
        results: folder of all datasets, such as nnUNet_results.
        folds: to import; None: all.
        dataset: name to give the dataset; None: the exporter's.

    Nothing in the export is trusted: digests and all names are checked before anything is written, and no
    pickle is read. What is written holds weights and plain values. ValueError for exports that are damaged,
    of another format or not safe, and for missing folds; FileExistsError if the folder exists.
    """
    manifest = read_manifest(source)
    folds = check_folds(source, manifest, folds)
    name = manifest.dataset if dataset is None else dataset
    if not is_dataset_name(name):
        raise ValueError(f"{name!r} is not a name of a dataset; expected one as Dataset123_Liver.")
    check_digests(source, {file: manifest.files[file] for file in list_files(folds)})
    plans = read_plans(source / PLANS, manifest.configuration)
    description = read_description(source / DATASET)
    target = results / name / str(manifest.method)
    with atomic_directory(target) as draft:
        for fold in folds:
            record = read_record(FoldRecord, source / record_name(fold))
            checkpoint = {
                "network_weights": read_weights(source / weights_name(fold), record.weights),
                "trainer_name": manifest.trainer,
                "inference_allowed_mirroring_axes": record.inference_allowed_mirroring_axes,
                "init_args": {
                    "plans": plans,
                    "configuration": manifest.configuration,
                    "fold": int(fold) if fold.isdigit() else fold,
                    "dataset_json": description,
                },
            }
            (draft / f"fold_{fold}").mkdir()
            torch.save(checkpoint, draft / f"fold_{fold}" / FINAL)
        for file in SHARED:
            shutil.copyfile(source / file, draft / file)
    return target


def check_free_number(name: str, places: Sequence[Path]) -> None:
    """Raise ValueError if another dataset has the number: nnU-Net then finds neither of them by it."""
    pattern = f"{name[:10]}_*"
    others = {found.name for place in places for found in place.glob(pattern)} - {name}
    if others:
        raise ValueError(
            f"{name} has the number of {', '.join(sorted(others))}, and nnU-Net could tell neither by it. "
            f"Give --dataset with a number that is free here, as Dataset{_free_number(places)}{name[10:]}."
        )


def _free_number(places: Sequence[Path]) -> str:
    taken = {found.name[7:10] for place in places for found in place.glob("Dataset*")}
    return next(number for number in (f"{n:03d}" for n in range(500, 1000)) if number not in taken)


@contextmanager
def open_model(folder: Path, folds: Sequence[str]) -> Iterator[Path]:
    """Yield a trained folder: the one that is given, or of an export a temporary one."""
    if not is_export(folder):
        yield folder
        return
    with TemporaryDirectory(prefix="nnunet_mamba_") as place:
        yield import_model(folder, Path(place), folds=folds)
