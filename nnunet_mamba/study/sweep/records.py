"""What a study's folder keeps about its jobs.

OUT/jobs/NAME.json             the record: state, attempts, command, origin of the result, cause of a failure
OUT/jobs/NAME.progress.json    how far a running one is
OUT/done/NAME.FINGERPRINT      an empty stamp: the job is done for this fingerprint
OUT/logs/NAME.log              what its command printed, all attempts
OUT/locks/                     who is at work
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json, write_text
from nnunet_mamba.study.sweep.job import Job

RUNNING, DONE, FAILED, REQUEUED = "running", "done", "failed", "requeued"


@dataclass(frozen=True)
class Record:
    """One job as it stands. A running one whose lock nobody holds was killed with its runner."""

    job: str
    kind: str
    state: str  # running, done, failed; requeued: SLURM will run it again
    fingerprint: str
    identity: Mapping[str, str]
    attempts: int
    started: str  # of the last attempt; UTC, ISO 8601
    host: str
    pid: int  # of the runner
    command: str  # as one would type it; empty where nothing was left to do
    slurm_job: str = ""
    seed: int | None = None
    resumed_from: str | None = None  # the checkpoint
    adopted: bool = False  # what lay in its folder was made outside of this study
    ended: str | None = None
    seconds: float = 0.0  # of all attempts, but for those that were killed with their runner
    provenance: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)  # the last numbers told
    cause: str | None = None  # of a failure
    remedy: str | None = None
    tail: tuple[str, ...] = ()  # the end of the log of a failure
    products: tuple[str, ...] = ()  # of a job done

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Of `asdict`; what a later version has added is passed over."""
        known: dict[str, Any] = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        for name in ("tail", "products"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


@dataclass(frozen=True)
class Layout:
    """The folder of a study."""

    root: Path

    def record(self, name: str) -> Path:
        return self.root / "jobs" / f"{name}.json"

    def progress(self, name: str) -> Path:
        return self.root / "jobs" / f"{name}.progress.json"

    def log_file(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def stamp(self, name: str, fingerprint: str) -> Path:
        return self.root / "done" / f"{name}.{fingerprint}"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def lock(self, job: Job) -> Path:
        """Beside what the job owns, since other studies may want to write there; else in the study."""
        if job.own_folder is None:
            return self.locks / f"{job.name}.lock"
        return job.own_folder.with_name(f"{job.own_folder.name}.lock")

    def read_record(self, name: str) -> Record | None:
        """None for a job that was never started."""
        file = self.record(name)
        try:
            return Record.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is no record of a job ({error}). Remove it: a finished training can then be taken "
                f"over by --adopt."
            ) from error

    def write_record(self, record: Record) -> None:
        write_json(self.record(record.job), asdict(record))

    def write_stamp(self, name: str, fingerprint: str) -> None:
        self.remove_stamps(name)
        write_text(self.stamp(name, fingerprint), "")

    def remove_stamps(self, name: str) -> None:
        """Of any fingerprint."""
        for file in (self.root / "done").glob(f"{name}.*"):
            if file.name.rpartition(".")[0] == name:
                file.unlink(missing_ok=True)
