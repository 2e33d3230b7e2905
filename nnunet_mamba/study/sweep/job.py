"""One command of a study: what it needs, what it leaves behind, and what its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.nnunet.commands import Command

KINDS = (
    "convert", "fingerprint", "plan", "split", "preprocess", "train", "predict", "average", "evaluate",
    "compare", "report",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One command, run to its end exactly once for a given `identity`.

    name        unique in the study and fit for a file's name
    needs       the jobs whose results it uses
    after       jobs that it waits for, though its result does not depend on theirs
    products    files and folders that exist when it is done
    identity    all that the result depends on besides `needs`, by name: a change makes the job outdated.
                Device, number of processes and the like are not part of it
    gpus, threads, memory_gb, hours    what it asks of the machine
    own_folder  what nothing else writes to, set aside when the job is outdated: the fold's folder
    dataset     the raw dataset of a training, for the record
    sources     what it reads and no job writes: where that has changed since it was done, it is outdated
    watched     products that a user may edit: then all that needs them is outdated
    """

    name: str
    kind: str
    command: Command
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    products: tuple[Path, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
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


def fingerprint(job: Job, needs: Mapping[str, str]) -> str:
    """Of the job and, by their fingerprints `needs`, of all that comes before it: 16 hexadecimal digits."""
    content = {"identity": dict(job.identity), "needs": {name: needs[name] for name in job.needs}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
