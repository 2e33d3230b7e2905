"""One command of a study: what it needs, what it makes, and what its result depends on.

A job's cache key changes when anything changes that its result depends on: its own `cache_inputs`, the keys
of the jobs that it needs, and the checksums of the files that it reads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.nnunet.commands import Command

KINDS = (
    "convert", "fingerprint", "plan", "split", "preprocess", "train", "predict", "average", "evaluate",
    "compare", "report",
)  # fmt: skip
CHECKED = {".gz": 8, ".png": 16}  # formats that end with a checksum of their content, and its bytes
TRAINING_DATA = ("imagesTr", "labelsTr")
UNIMPORTANT = ("numTraining", "nnunet_mamba")  # keys of dataset.json that a new split rewrites


@dataclass(frozen=True)
class Job:
    """One command, run to its end exactly once for a given cache key.

    Args:
        name: unique in the study and fit for a file's name.
        needs: the jobs whose results it uses.
        after: jobs that it waits for, though its result does not depend on theirs.
        products: files and folders that exist when it is done.
        cache_inputs: all that the result depends on besides `needs`, by name: a change makes the job
            outdated. Device, number of processes and the like are not part of it.
        gpus, threads, memory_gb, hours: what it asks of the machine.
        own_folder: a folder that nothing else writes to, as a fold's, archived when the job is outdated.
        dataset: the raw dataset of a training, for the record.
        sources: files that it reads and no job writes: once they have changed, the job is outdated.
        watched: products that a user may edit: then all jobs that need them are outdated.
    """

    name: str
    kind: str
    command: Command
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    products: tuple[Path, ...] = ()
    cache_inputs: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    threads: int = 1
    memory_gb: int = 8
    hours: int = 4
    own_folder: Path | None = None
    dataset: Path | None = None
    sources: tuple[Path, ...] = ()
    watched: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


def compute_cache_key(job: Job, needs: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits for the job and, by their cache keys `needs`, all jobs before it."""
    # "identity": the name that the keys of existing studies were computed with
    content = {"identity": dict(job.cache_inputs), "needs": {name: needs[name] for name in job.needs}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def compute_checksum(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits for files and folders together; a missing one counts as missing.

    A dataset (a folder with dataset.json) counts by its description and its training data, any other folder
    by the files in it, JSON by its values. Compressed files count by name, size and end, where they have a
    checksum of their own, others by their whole content.
    """
    text = "\n".join(line for path in paths for line in _describe(Path(path)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(path: Path) -> Iterator[str]:
    if (path / "dataset.json").is_file():
        yield from _describe_dataset(path)
    elif path.is_dir():
        yield from _describe_files(path)
    elif path.is_file():
        yield _describe_file(path)
    else:
        yield f"no {path.name}"


def _describe_dataset(folder: Path) -> Iterator[str]:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    yield json.dumps({k: v for k, v in description.items() if k not in UNIMPORTANT}, sort_keys=True)
    for name in TRAINING_DATA:
        if (folder / name).is_dir():
            yield from _describe_files(folder / name)


def _describe_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield _describe_file(path)


def _describe_file(path: Path) -> str:
    if path.suffix == ".json":
        return f"{path.name} {_normalise_json(path)}"
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - CHECKED[path.suffix]) if path.suffix in CHECKED else 0)
        return f"{path.name} {size} {hashlib.sha256(stream.read()).hexdigest()}"


def _normalise_json(path: Path) -> str:
    """Return the values of a JSON file as text, independent of its layout."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text
