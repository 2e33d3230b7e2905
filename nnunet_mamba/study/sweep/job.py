"""One command of a study: what it needs, what it makes, and what its result depends on.

A job's cache key changes when anything changes that its result depends on: its own `cache_inputs`, the keys
of the jobs that it needs, and the checksums of the files that it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep.preprocessed_data import PreprocessedData

KINDS = (
    "convert", "fingerprint", "plan", "split", "preprocess", "train", "predict", "validate", "evaluate",
    "compare", "report",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One command, run to its end exactly once for a given cache key.

    Args:
        name: unique in the study and fit for a file's name.
        needs: the jobs whose results it uses.
        after: jobs that must have succeeded before, though its result does not depend on theirs.
        products: files and folders that exist when it is done.
        cache_inputs: all that the result depends on besides `needs`, by name: a change makes the job
            outdated. Device, number of processes and the like are not part of it.
        gpus, threads, memory_gb, hours: what it asks of the machine.
        own_folder: a folder that nothing else writes to, as a fold's, archived when the job is outdated.
        data: the preprocessed data that it makes, or is trained on.
        lock: a file whose lock it holds, for jobs of other studies write to the same places.
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
    data: PreprocessedData | None = None
    lock: Path | None = None
    sources: tuple[Path, ...] = ()
    watched: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


def compute_cache_key(job: Job, needs: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits for the job and, by their cache keys `needs`, all jobs before it."""
    content = {"inputs": dict(job.cache_inputs), "needs": {name: needs[name] for name in job.needs}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
