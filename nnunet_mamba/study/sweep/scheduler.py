"""Running a graph: in Snakemake, or as a shell script of plain commands or of SLURM jobs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from nnunet_mamba.io.locks import HeldLock
from nnunet_mamba.nnunet.commands import find_program
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.nnunet.subprocesses import interrupt_on_signals, stop
from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.gpus import GPUS
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.run_graph import RunGraph
from nnunet_mamba.study.sweep.run_job import describe_owner
from nnunet_mamba.study.sweep.status import StatusView, read_statuses

HERE = Path(__file__).parent
GRACE_S = 40.0  # for jobs to stop their commands
SHEBANG = "#!/usr/bin/env bash"


def check_snakemake() -> None:
    if find_spec("snakemake") is None:
        raise ValueError(
            "Snakemake is not installed: pip install 'snakemake>=9' snakemake-executor-plugin-slurm (Python "
            "3.11 or newer). Without it, --emit-commands and --emit-slurm write the study as a script."
        )


def run_snakemake(
    graph: RunGraph,
    *,
    cores: int,
    gpus: Sequence[str],
    profile: str | None,
    log: LogFn,
    lock: HeldLock | None = None,
) -> int:
    """Run all jobs that are not done, each GPU one training at a time; return Snakemake's exit code.

    A profile (the name of one of ours, or a folder of the user's) decides where jobs run; without one, here.
    Snakemake holds the `lock` of the study, too: should this process be killed, it works on.
    """
    check_snakemake()
    argv = [sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile")]
    argv += ["--nolock", "--rerun-incomplete", "--keep-going"]
    argv += ["--scheduler", "greedy"]  # ilp takes two jobs in the place of an earlier one that is larger
    argv += ["--rerun-triggers", "params"]  # nothing but the stamps, whose names hold the cache keys
    argv += _resource_options(cores, gpus, profile)
    log_file = graph.layout.log_file("snakemake")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **graph.variables, GPUS: ",".join(gpus)}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else Snakemake would ignore it, too
    with log_file.open("ab") as stream, interrupt_on_signals():
        offset = stream.tell()
        child = subprocess.Popen(
            argv,
            cwd=graph.out,  # not --directory, which the SLURM plugin would put between a shell's quotes
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            pass_fds=lock.descriptors if lock else (),
        )
        if lock:
            lock.write_owner(describe_owner(f"the sweep {graph.study}", child.pid))
        try:
            StatusView(graph, log).watch(child)
        except BaseException:
            _stop(child, remote=profile is not None)
            slurm.cancel_jobs(slurm.read_run_names(log_file, offset))  # it submits on while it cancels
            raise
    slurm.record_failed_jobs(graph)
    if child.returncode and not any(status.state == "failed" for status in read_statuses(graph)):
        tail = log_file.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-12:]
        log("\n".join(["Snakemake failed:", *(f"    {line}" for line in tail), f"  log: {log_file}"]))
    return child.returncode


def _resource_options(cores: int, gpus: Sequence[str], profile: str | None) -> list[str]:
    if profile is None:
        return ["--cores", str(cores), "--resources", f"gpu={len(gpus)}", "--retries", "1"]
    own = HERE / "profiles" / profile
    return ["--profile", str(own if own.is_dir() else Path(profile).absolute())]


def _stop(child: subprocess.Popen[bytes], *, remote: bool) -> None:
    """End Snakemake and its jobs; jobs on other machines are cancelled by Snakemake itself."""
    if remote:
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
            return
    stop(child, GRACE_S)


def emit_commands(graph: RunGraph, jobs: Iterable[Job]) -> str:
    """Return a script of all commands, as typed by hand: without locks, resuming and records."""
    lines = [
        SHEBANG,
        f"# {graph.study}: to be run from top to bottom; --c resumes a training",
        "set -euo pipefail",
    ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in graph.variables.items()]
    for job in jobs:
        lines += ["", f"# {job.name}", str(job.command)]
    return "\n".join(lines) + "\n"


def emit_slurm(graph: RunGraph, jobs: Iterable[Job]) -> str:
    """Return a script of one `sbatch` per job, which waits for those that it needs; a failed one ends none.

    Options for every sbatch are the arguments of the script; those for jobs with a GPU and without one are
    the variables GPU_JOBS and CPU_JOBS.
    """
    logs = graph.layout.log_file("any").parent
    lines = [
        SHEBANG,
        f"# {graph.study}: one SLURM job each. Options for sbatch, as in",
        "#     GPU_JOBS='-p gpu' CPU_JOBS='-p cpu' bash SCRIPT -A lab",
        "set -euo pipefail",
        f"mkdir -p {shlex.quote(str(logs))}",
    ]
    numbers = {job.name: f"job_{i}" for i, job in enumerate(jobs)}
    for name, variable in numbers.items():
        job = graph.jobs[name]
        words = " ".join(_sbatch_options(graph, job, numbers))
        kind = "${GPU_JOBS:-}" if job.gpus else "${CPU_JOBS:-}"
        wrapped = shlex.quote(_run_command(graph, job))
        submit = f'{variable}=$(sbatch --parsable {words} "$@" {kind} --wrap={wrapped})'
        lines += ["", f"# {name}", submit, f"{variable}=${{{variable}%%;*}}"]
    return "\n".join([*lines, "", f'echo "{len(numbers)} jobs submitted"']) + "\n"


def _sbatch_options(graph: RunGraph, job: Job, numbers: dict[str, str]) -> Iterator[str]:
    """Yield options for one node and any number of GPUs; --requeue lets a training outlast its limit."""
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
    output = str(graph.layout.log_file(job.name).with_suffix(".slurm")).replace("%", "%%")
    yield f"--output={shlex.quote(output)} --open-mode=append"


def _run_command(graph: RunGraph, job: Job) -> str:
    """Return the command, with `exec`: SLURM's signals reach the runner, and no shell in between."""
    command = [str(find_program("nnunet-mamba")), "sweep", "run", str(graph.out), job.name]
    return f"exec {shlex.join(command)}"
