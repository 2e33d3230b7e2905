"""Queries and requests to SLURM; without SLURM queries return nothing and requests do nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from nnunet_mamba.study.sweep.diagnosis import AGAIN, Diagnosis
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import FAILED, RUNNING

if TYPE_CHECKING:  # the graph runs jobs, and jobs ask SLURM
    from nnunet_mamba.study.sweep.run_graph import RunGraph

JOB = "SLURM_JOB_ID"  # SLURM sets it in a job
TIMEOUT_S = 30.0  # for an answer
MARGIN_S = 120.0  # before the time limit, for the command to stop
LIVE = ("", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "RESIZING")
FAILURES = {
    "TIMEOUT": Diagnosis("SLURM's time limit was reached", f"Write more `hours` into the study. {AGAIN}"),
    "OUT_OF_MEMORY": Diagnosis(
        "it took more memory (RAM) than it had asked SLURM for",
        f"Write more `memory_gb` into the study, or set nnUNet_n_proc_DA lower. {AGAIN}",
    ),
    "NODE_FAIL": Diagnosis("its node failed", AGAIN),
    "CANCELLED": Diagnosis("its SLURM job was cancelled", AGAIN),
    "PREEMPTED": Diagnosis("its SLURM job had to make room for another", AGAIN),
}


def own_job_id() -> str:
    """Return the number of the job that this process is in; "" in none."""
    return os.environ.get(JOB, "")


def get_end_state(job: str) -> str:
    """Return the accounting's state: COMPLETED, TIMEOUT, NODE_FAIL, ...; "" if it has none."""
    asked = _query("sacct", "--allocations", "--noheader", f"--jobs={job}", "--format=State")
    words = asked.stdout.split() if asked else []
    return words[0].rstrip("+") if words else ""


def record_failed_jobs(graph: RunGraph) -> None:
    """Record as failed the jobs that SLURM ended together with their runner, whose records say "running"."""
    for name in graph.jobs:
        record = graph.layout.read_record(name)
        if record is None or record.state != RUNNING or not record.slurm_job:
            continue
        state = get_end_state(record.slurm_job)
        if state not in LIVE:
            end = FAILURES.get(state, Diagnosis(f"killed with its runner (SLURM: {state})", AGAIN))
            graph.layout.write_record(replace(record, state=FAILED, cause=end.cause, fix=end.fix))


def get_seconds_left() -> float | None:
    """Return the time until this job's limit; None outside of a job and without a limit."""
    if not own_job_id():
        return None
    asked = _query("squeue", "--noheader", f"--jobs={own_job_id()}", "--format=%L")
    return parse_time_s(asked.stdout.strip()) if asked else None


def parse_time_s(text: str) -> float | None:
    """Return the seconds of [[D-]H:]M:S; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class TimeLimit:
    """Stop of a training shortly before SLURM's time limit, so that it can be queued again and go on.

    Within `with`, this process gets SIGTERM before the limit, and `near` is true; only for a training that
    has written a checkpoint meanwhile: another one would be queued again for ever.
    """

    def __init__(self, job: Job) -> None:
        self.near = False
        self._fold = job.own_folder if job.kind == "train" else None
        self._before: dict[Path, int] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> TimeLimit:
        self._before = self._checkpoints()
        left_s = get_seconds_left() if self._fold else None
        if left_s is not None:
            self._timer = threading.Timer(max(left_s - MARGIN_S, 0), self._stop)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _stop(self) -> None:
        if self._checkpoints() != self._before:
            self.near = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _checkpoints(self) -> dict[Path, int]:
        """Return the time of each checkpoint."""
        files = self._fold.glob("checkpoint_*.pth") if self._fold else ()
        return {file: file.stat().st_mtime_ns for file in files}


def requeue() -> bool:
    """Queue this job again, under its number; SLURM ends it for that. Return False if SLURM refuses."""
    asked = _query("scontrol", "requeue", own_job_id())
    return asked is not None and asked.returncode == 0


def cancel_jobs(names: Iterable[str]) -> None:
    """Cancel all jobs of these names."""
    for name in names:
        _query("scancel", f"--name={name}")


def read_run_names(log_file: Path, offset: int) -> list[str]:
    """Return the name that Snakemake's plugin gave to all jobs of a run, from its log."""
    with log_file.open("rb") as stream:
        stream.seek(offset)
        return re.findall(r"SLURM run ID: (\S+)", stream.read().decode(errors="replace"))


def _query(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
