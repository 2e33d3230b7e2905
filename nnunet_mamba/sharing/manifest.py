"""Files of an export, and their digests: all that is read of one before a weight is.

    model.json              this manifest: names, versions, the other files with their digests
    README.md               the card
    plans.json, dataset.json
    fold_F.safetensors      weights of a fold
    fold_F.json             names of the weights, axes for mirroring

An export may come from anyone. Its files have these names and no other, so that none leads out of the folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnunet_mamba.nnunet.paths import Method, parse_method

FORMAT = 1
MANIFEST, CARD, PLANS, DATASET = "model.json", "README.md", "plans.json", "dataset.json"
SHARED = (CARD, PLANS, DATASET)  # by all folds
AGAIN = "Copy or download it again."

DATASET_NAME = r"^Dataset[0-9]{3}_\w[\w.-]*$"
NAME = r"^\w[\w.-]*$"
FOLD = r"^([0-9]{1,4}|all)$"
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
Name = Annotated[str, Field(pattern=NAME)]
Fold = Annotated[str, Field(pattern=FOLD)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FoldRecord(_Strict):
    """Entries of a checkpoint that nnU-Net's predictor needs beside the tensors.

    inference_allowed_mirroring_axes  as in the checkpoint
    weights  name in the network -> name of its tensor in the file, in the network's order. Names that share
             memory share a tensor: nnU-Net's decoders also hold the encoder.
    """

    inference_allowed_mirroring_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None
    weights: dict[str, str]


class Manifest(_Strict):
    """Content of model.json. `versions` are those of the packages that wrote the export."""

    format: int
    dataset: Annotated[str, Field(pattern=DATASET_NAME)]
    trainer: Identifier
    plans: Name
    configuration: Name
    checkpoint: Name
    folds: Annotated[tuple[Fold, ...], Field(min_length=1)]
    versions: dict[str, str]
    files: dict[str, Digest]

    @property
    def method(self) -> Method:
        return Method(self.trainer, self.plans, self.configuration)


class _Numbered(BaseModel):
    format: int


Record = TypeVar("Record", bound=BaseModel)


def weights_name(fold: str) -> str:
    return f"fold_{fold}.safetensors"


def record_name(fold: str) -> str:
    return f"fold_{fold}.json"


def list_files(folds: Sequence[str]) -> list[str]:
    """Return the names of all files of an export but the manifest."""
    return [*SHARED, *(name(fold) for fold in folds for name in (weights_name, record_name))]


def is_dataset_name(name: str) -> bool:
    return re.fullmatch(DATASET_NAME, name) is not None


def is_export(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an export. ValueError if there is none, or one of another format, or one that
    names other files than an export has."""
    file = folder / MANIFEST
    if not file.is_file():
        raise ValueError(f"{folder} is no export: it has no {MANIFEST}, which `export-model` writes.")
    number = read_record(_Numbered, file).format
    if number != FORMAT:
        raise ValueError(
            f"{file} has format {number}; this version of nnunet_mamba reads format {FORMAT}. "
            "Install the version that wrote it, or a later one."
        )
    manifest = read_record(Manifest, file)
    if parse_method(str(manifest.method)) != manifest.method:
        raise ValueError(f"{file}: {manifest.method} is not TRAINER__PLANS__CONFIGURATION; names have a __.")
    _check_names(file, manifest)
    return manifest


def _check_names(file: Path, manifest: Manifest) -> None:
    expected, named = set(list_files(manifest.folds)), set(manifest.files)
    if len(set(manifest.folds)) < len(manifest.folds):
        raise ValueError(f"{file} names a fold twice: {', '.join(manifest.folds)}.")
    if others := sorted(named - expected):
        raise ValueError(f"{file} names files that no export has: {', '.join(map(repr, others))[:200]}.")
    if missing := sorted(expected - named):
        raise ValueError(f"{file} lacks the digests of {', '.join(missing)}.")


def check_folds(source: Path, manifest: Manifest, folds: Sequence[str] | None) -> Sequence[str]:
    """Return the folds to import, each once. ValueError for those that an export lacks."""
    if missing := [fold for fold in folds or () if fold not in manifest.folds]:
        raise ValueError(
            f"{source} has no fold {', '.join(missing)}; give -f {' '.join(manifest.folds)}, or some of them."
        )
    return list(dict.fromkeys(folds or manifest.folds))


def read_record(kind: type[Record], file: Path) -> Record:
    """Return a JSON file as a record. ValueError that names the file and the first entry that is wrong."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"])
        raise ValueError(f"{file} is not valid: {f'{place}: ' if place else ''}{first['msg']}.") from error


def compute_digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_digests(folder: Path, files: Mapping[str, str]) -> None:
    """Raise ValueError with the names of all files that are missing or damaged."""
    missing = [name for name in files if not (folder / name).is_file()]
    damaged = [
        name
        for name, digest in files.items()
        if name not in missing and compute_digest(folder / name) != digest
    ]
    problems = [f"lacks {', '.join(missing)}"] if missing else []
    problems += [f"has damaged files: {', '.join(damaged)}"] if damaged else []
    if problems:
        raise ValueError(f"{folder} {' and '.join(problems)}. {AGAIN}")
