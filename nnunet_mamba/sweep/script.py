"""A study as a shell script, for those without Snakemake: plain commands, or one SLURM job each."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from nnunet_mamba.running.command import find_program
from nnunet_mamba.sweep.frozen import Frozen
from nnunet_mamba.sweep.job import Job

HEAD = "#!/usr/bin/env bash"


def commands(frozen: Frozen, jobs: Iterable[Job]) -> str:
    """One command after the other, as typed by hand: without locks, resuming and records."""
    lines = [
        HEAD,
        f"# {frozen.study}: to be run from top to bottom; --c resumes a training",
        "set -euo pipefail",
    ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in frozen.variables.items()]
    for job in jobs:
        lines += ["", f"# {job.name}", str(job.command)]
    return "\n".join(lines) + "\n"


def slurm(frozen: Frozen, jobs: Iterable[Job]) -> str:
    """One `sbatch` per job, which waits for those that it needs; jobs that fail leave the others running.

    Arguments of the script go to every sbatch: partition, account and the like.
    """
    lines = [
        HEAD,
        f"# {frozen.study}: one SLURM job each. Arguments go to every sbatch: bash SCRIPT -p gpu -A lab",
        "set -euo pipefail",
    ]
    numbers = {job.name: f"job_{i}" for i, job in enumerate(jobs)}
    for name, variable in numbers.items():
        words = " ".join(_sbatch(frozen, frozen.jobs[name], numbers))
        lines += ["", f"# {name}", f'{variable}=$(sbatch --parsable "$@" {words})']
    return "\n".join(lines) + "\n"


def _sbatch(frozen: Frozen, job: Job, numbers: dict[str, str]) -> Iterator[str]:
    yield f"--job-name={shlex.quote(job.name)}"
    yield f"--cpus-per-task={job.threads} --mem={job.memory_gb}G --time={job.hours}:00:00"
    if job.gpus:
        yield f"--gpus={job.gpus}"
    waits = [f"${{{numbers[name]}}}" for name in (*job.needs, *job.after) if name in numbers]
    if waits:
        yield f"--dependency=afterok:{':'.join(waits)} --kill-on-invalid-dep=yes"
    yield f"--output={shlex.quote(str(frozen.layout.log(job.name).with_suffix('.slurm')))} --open-mode=append"
    run = shlex.join([str(find_program("nnunet-mamba")), "sweep", "run", str(frozen.out), job.name])
    yield f"--wrap={shlex.quote(run)}"
