"""Files that a study's folder keeps about its jobs, and the origin of a result: versions, commit, GPU.

OUT/jobs/NAME.json             the record: state, attempts, command, origin of the result, cause of a failure
OUT/jobs/NAME.progress.json    progress of a running job
OUT/done/NAME.KEY              an empty stamp: the job is done for this cache key
OUT/logs/NAME.log              output of its command, all attempts
OUT/locks/                     locks of jobs at work
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nnunet_mamba
from nnunet_mamba.io.atomic import write_json, write_text
from nnunet_mamba.nnunet.version import get_installed_version
from nnunet_mamba.study.sweep.job import Job

RUNNING, DONE, FAILED, REQUEUED = "running", "done", "failed", "requeued"
FORMAT = 2  # of all these files
PACKAGES = ("torch", "nnunetv2", "numba", "triton", "mamba-ssm")
WRITE_EVERY_S = 2.0  # progress


@dataclass(frozen=True)
class Record:
    """State of one job. A running one whose lock nobody holds was killed with its runner."""

    job: str
    kind: str
    state: str  # running, done, failed; requeued: SLURM will run it again
    cache_key: str
    cache_inputs: Mapping[str, str]
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
    progress: Mapping[str, Any] = field(default_factory=dict)  # the last numbers reported
    cause: str | None = None  # of a failure
    fix: str | None = None
    tail: tuple[str, ...] = ()  # the end of the log of a failure
    products: tuple[str, ...] = ()  # of a job done

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Return the record of a file; keys that a later version has added are ignored."""
        known: dict[str, Any] = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        for name in ("tail", "products"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


@dataclass(frozen=True)
class Layout:
    """Names of the files in a study's folder."""

    root: Path

    def record(self, name: str) -> Path:
        return self.root / "jobs" / f"{name}.json"

    def progress(self, name: str) -> Path:
        return self.root / "jobs" / f"{name}.progress.json"

    def log_file(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def stamp(self, name: str, cache_key: str) -> Path:
        return self.root / "done" / f"{name}.{cache_key}"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def lock(self, job: Job) -> Path:
        """Return the lock: beside the job's own folder, which studies may share, else in the study."""
        if job.own_folder is None:
            return self.locks / f"{job.name}.lock"
        return job.own_folder.with_name(f"{job.own_folder.name}.lock")

    def read_record(self, name: str) -> Record | None:
        """Return None for a job that was never started."""
        file = self.record(name)
        try:
            return Record.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is not a record of a job ({error}). Remove it: a finished training can then be "
                "taken over by --adopt."
            ) from error

    def write_record(self, record: Record) -> None:
        write_json(self.record(record.job), asdict(record))

    def write_stamp(self, name: str, cache_key: str) -> None:
        self.remove_stamps(name)
        write_text(self.stamp(name, cache_key), "")

    def remove_stamps(self, name: str) -> None:
        """Remove the job's stamps of all cache keys."""
        for file in (self.root / "done").glob(f"{name}.*"):
            if file.name.rpartition(".")[0] == name:
                file.unlink(missing_ok=True)

    def read_progress(self, name: str) -> dict[str, Any]:
        """Return the last numbers that a running job reported, none before its first."""
        try:
            content = json.loads(self.progress(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


class ProgressFile:
    """The last numbers reported, in memory and, every few seconds, in a file for `sweep status`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.numbers: dict[str, Any] = {}
        self.written_at = -WRITE_EVERY_S
        file.unlink(missing_ok=True)

    def __call__(self, numbers: Mapping[str, Any]) -> None:
        self.numbers.update(numbers)
        if time.monotonic() - self.written_at >= WRITE_EVERY_S:
            self.written_at = time.monotonic()
            with suppress(OSError):  # a full disk ends no training
                write_json(self.file, self.numbers)


def collect_provenance(*, gpu: bool) -> dict[str, Any]:
    """Return versions and commit by name, from files and small programs only; `gpu` adds the cards."""
    return {
        "nnunet_mamba": nnunet_mamba.__version__,
        "commit": read_commit(Path(nnunet_mamba.__path__[0]).parent),
        "python": platform.python_version(),
        **{name: get_installed_version(name) for name in PACKAGES},
        "gpus": list_gpus() if gpu else [],
    }


def read_commit(checkout: Path) -> str | None:
    """Return the sources' commit, with "+changes" if they differ from it; None outside of a checkout."""
    if not (checkout / ".git").exists():
        return None
    head = _read_output("git", "-C", str(checkout), "rev-parse", "HEAD")
    changes = _read_output("git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if head and changes else head or None


def list_gpus() -> list[str]:
    """Return all cards of this host, visible to the job or not, by the driver's names, with its version."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return _read_output(*query).splitlines()


def _read_output(*command: str) -> str:
    """Return a program's output; nothing where it is missing, fails, or hangs."""
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def utc_now() -> str:
    """Return the time as 2026-11-21T14:03:09+00:00, for records, locks and logs."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
