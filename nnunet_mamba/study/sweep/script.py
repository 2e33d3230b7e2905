"""A study as a shell script, for those without Snakemake: plain commands, or one SLURM job each."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from nnunet_mamba.nnunet.commands import find_program
from nnunet_mamba.study.sweep.frozen import Frozen
from nnunet_mamba.study.sweep.job import Job

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

    Options for every sbatch are the arguments of the script; those for jobs with a GPU and without one are
    the variables GPU_JOBS and CPU_JOBS.
    """
    logs = frozen.layout.log_file("any").parent
    lines = [
        HEAD,
        f"# {frozen.study}: one SLURM job each. Options for sbatch, as in",
        "#     GPU_JOBS='-p gpu' CPU_JOBS='-p cpu' bash SCRIPT -A lab",
        "set -euo pipefail",
        f"mkdir -p {shlex.quote(str(logs))}",
    ]
    numbers = {job.name: f"job_{i}" for i, job in enumerate(jobs)}
    for name, variable in numbers.items():
        job = frozen.jobs[name]
        words = " ".join(_sbatch(frozen, job, numbers))
        kind = "${GPU_JOBS:-}" if job.gpus else "${CPU_JOBS:-}"
        submit = (
            f'{variable}=$(sbatch --parsable {words} "$@" {kind} --wrap={shlex.quote(_run(frozen, job))})'
        )
        lines += ["", f"# {name}", submit, f"{variable}=${{{variable}%%;*}}"]
    return "\n".join([*lines, "", f'echo "{len(numbers)} jobs submitted"']) + "\n"


def _sbatch(frozen: Frozen, job: Job, numbers: dict[str, str]) -> Iterator[str]:
    """On one node, whatever the number of GPUs; --requeue lets a training outlast its time limit."""
    yield f"--job-name={shlex.quote(job.name)} --requeue --nodes=1 --ntasks=1"
    yield f"--cpus-per-task={job.threads} --mem={1000 * job.memory_gb}M --time={job.hours}:00:00"
    if job.gpus:
        yield f"--gpus={job.gpus}"
    waits = {"afterok": job.needs, "afterany": job.after}
    jobs = {
        kind: [f"${{{numbers[name]}}}" for name in names if name in numbers] for kind, names in waits.items()
    }
    if any(jobs.values()):
        conditions = [":".join([kind, *waited]) for kind, waited in jobs.items() if waited]
        yield f"--dependency={','.join(conditions)} --kill-on-invalid-dep=yes"
    output = str(frozen.layout.log_file(job.name).with_suffix(".slurm")).replace("%", "%%")
    yield f"--output={shlex.quote(output)} --open-mode=append"


def _run(frozen: Frozen, job: Job) -> str:
    """`exec`: SLURM's signals reach the runner, and no shell in between."""
    command = [str(find_program("nnunet-mamba")), "sweep", "run", str(frozen.out), job.name]
    return f"exec {shlex.join(command)}"
