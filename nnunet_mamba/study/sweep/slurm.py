"""What a sweep asks of SLURM, and tells it. Where there is none, nothing is known and nothing is done."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

JOB = "SLURM_JOB_ID"  # SLURM sets it in a job
TIMEOUT_S = 30.0  # for an answer


def own_job() -> str:
    """The number of the job that this process is in; "" in none."""
    return os.environ.get(JOB, "")


def ended(job: str) -> bool:
    """Whether a job is known to have ended.

    A process of this very job that is not there any more ran before SLURM queued the job again.
    """
    if job == own_job():
        return True
    asked = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    if asked is None:
        return False
    return not asked.stdout.strip() if asked.returncode == 0 else "Invalid job id" in asked.stderr


def end_state(job: str) -> str:
    """As the accounting has it: COMPLETED, TIMEOUT, NODE_FAIL, ...; "" where it tells nothing."""
    asked = _ask("sacct", "--allocations", "--noheader", f"--jobs={job}", "--format=State")
    words = asked.stdout.split() if asked else []
    return words[0].rstrip("+") if words else ""


def seconds_left() -> float | None:
    """Until the time limit of this job; None outside of a job and where it has none."""
    if not own_job():
        return None
    asked = _ask("squeue", "--noheader", f"--jobs={own_job()}", "--format=%L")
    return parse_time_s(asked.stdout.strip()) if asked else None


def parse_time_s(text: str) -> float | None:
    """[[D-]H:]M:S -> seconds; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def requeue() -> bool:
    """Queue this job again, under its number; SLURM ends it for that. False if SLURM refuses."""
    asked = _ask("scontrol", "requeue", own_job())
    return asked is not None and asked.returncode == 0


def cancel(names: Iterable[str]) -> None:
    """All jobs of these names."""
    for name in names:
        _ask("scancel", f"--name={name}")


def run_names(log_file: Path, offset: int) -> list[str]:
    """The name that Snakemake's plugin gave to all jobs of a run, from its log."""
    with log_file.open("rb") as stream:
        stream.seek(offset)
        return re.findall(r"SLURM run ID: (\S+)", stream.read().decode(errors="replace"))


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
