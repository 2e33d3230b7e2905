"""Snakemake at work on a frozen graph, and what a terminal shows meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.nnunet.subprocesses import stopped_by_signals
from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.casualties import record_slurm_ends
from nnunet_mamba.study.sweep.frozen import Frozen
from nnunet_mamba.study.sweep.gpus import GPUS
from nnunet_mamba.study.sweep.status import Row, line_of, rows, summary

HERE = Path(__file__).parent
LOOK_S = 1.0  # between two looks at the records
SAY_S = 60.0  # between two lines on progress where nobody watches
GRACE_S = 40.0  # for jobs to stop their commands


def require_snakemake() -> None:
    if find_spec("snakemake") is None:
        raise ValueError(
            "Snakemake is not installed: pip install 'nnunet_mamba[sweep]'. Without it, --emit-commands and "
            "--emit-slurm write the study as a script."
        )


def run(
    frozen: Frozen,
    *,
    cores: int,
    gpus: Sequence[str],
    profile: str | None,
    log: LogFn,
    started: Callable[[int], None] = lambda pid: None,
) -> int:
    """Run all jobs that are not done, each GPU one training at a time; returns Snakemake's exit code.

    A profile (the name of one of ours, or a folder of the user's) says where jobs run; without one, here.
    `started` is told Snakemake's process.
    """
    require_snakemake()
    argv = [sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile")]
    argv += ["--nolock", "--rerun-incomplete", "--keep-going"]
    argv += ["--rerun-triggers", "params"]  # nothing but the stamps, whose names say it all
    argv += _where(cores, gpus, profile)
    log_file = frozen.layout.log_file("snakemake")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **frozen.variables, GPUS: ",".join(gpus)}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else Snakemake would not hear us either
    with log_file.open("ab") as stream, stopped_by_signals():
        begin = stream.tell()
        child = subprocess.Popen(
            argv,
            cwd=frozen.out,  # not --directory, which the SLURM plugin would put between a shell's quotes
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            started(child.pid)
            View(frozen, log).watch(child)
        except BaseException:
            _stop(child, remote=profile is not None)
            slurm.cancel(slurm.run_names(log_file, begin))  # the plugin goes on submitting while it cancels
            raise
    record_slurm_ends(frozen)
    if child.returncode and not any(row.state == "failed" for row in rows(frozen)):
        tail = log_file.read_text(errors="replace").strip().splitlines()[-12:]
        log("\n".join(["Snakemake failed:", *(f"    {line}" for line in tail), f"  log: {log_file}"]))
    return child.returncode


def _where(cores: int, gpus: Sequence[str], profile: str | None) -> list[str]:
    if profile is None:
        return ["--cores", str(cores), "--resources", f"gpu={len(gpus)}", "--retries", "1"]
    own = HERE / "profiles" / profile
    return ["--profile", str(own if own.is_dir() else Path(profile).absolute())]


def available_gpus() -> list[str]:
    """The numbers of NVIDIA's cards here, those of CUDA_VISIBLE_DEVICES where it is set."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def _stop(child: subprocess.Popen[bytes], *, remote: bool) -> None:
    """End Snakemake and its jobs; jobs on other machines are cancelled by Snakemake itself."""
    try:
        if remote:
            child.send_signal(signal.SIGINT)
        else:
            os.killpg(child.pid, signal.SIGTERM)
        child.wait(GRACE_S)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


class View:
    """What a terminal shows: all that runs, redrawn in place; elsewhere a line for each job that starts or
    ends, and now and then how far the running ones are."""

    def __init__(self, frozen: Frozen, log: LogFn) -> None:
        self.frozen = frozen
        self.log = log
        self.states: Mapping[str, str] = {row.job.name: row.state for row in rows(frozen)}
        self.said_at = time.monotonic()
        self.height = 0  # of what was drawn last
        self.drawing = sys.stdout.isatty()

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        while child.poll() is None:
            self.look(rows(self.frozen))
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_S)
        self.look(rows(self.frozen))

    def look(self, table: list[Row]) -> None:
        news = [row for row in table if row.state != self.states[row.job.name] and row.state != "waiting"]
        self.states = {row.job.name: row.state for row in table}
        if self.drawing:
            self.erase()
        for row in news:
            self.log(line_of(row))
        running = [row for row in table if row.state == "running"]
        if self.drawing:
            self.draw([*(line_of(row) for row in running), summary(table)])
        elif time.monotonic() - self.said_at > SAY_S:
            self.said_at = time.monotonic()
            for row in running:
                self.log(f"          {row.job.name}   {row.detail}")
            self.log(f"          {summary(table)}")

    def erase(self) -> None:
        if self.height:
            sys.stdout.write(f"\x1b[{self.height}F\x1b[J")
            sys.stdout.flush()

    def draw(self, lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        shown = [line[: size.columns - 1] for line in lines[-(size.lines - 2) :]]
        sys.stdout.write("\n".join(shown) + "\n")
        sys.stdout.flush()
        self.height = len(shown)
