"""Running one job of a sweep to its end, so that nothing is lost and nothing is done twice.

Under the job's lock: what lies in its folder is claimed or set aside, the command runs on what is left to do,
its products are looked for, and record and stamp say how it went.
"""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import LogFn, duration
from nnunet_mamba.nnunet.subprocesses import TAIL_LINES, ChildFailedError, run_child, stopped_by_signals
from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.diagnosis import INTERRUPTED, Diagnosis, diagnose
from nnunet_mamba.study.sweep.gpus import gpu_slots, slots_folder
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.leftovers import claim, command_left, is_whole, mark, missing, take_back
from nnunet_mamba.study.sweep.locks import JobLock
from nnunet_mamba.study.sweep.provenance import provenance
from nnunet_mamba.study.sweep.records import DONE, FAILED, REQUEUED, RUNNING, Layout, Record
from nnunet_mamba.study.sweep.timelimit import TimeLimit
from nnunet_mamba.study.sweep.times import utc_now
from nnunet_mamba.study.sweep.watching import ProgressFile, watcher


class JobFailedError(RuntimeError):
    """A job ended without its result; the message says why, what to do, and where its log is."""


class MissingProductError(RuntimeError):
    """A command ended well, but did not leave what it should."""


def run_job(
    job: Job,
    fingerprint: str,
    layout: Layout,
    *,
    log: LogFn,
    study: str = "",
    seed: int | None = None,
    adopt: bool = False,
    facts: Mapping[str, str] | None = None,
    finish: Callable[[], None] = lambda: None,
) -> Record:
    """Run what is left of `job`, and say so in its record and by its stamp.

    `facts` are added to the record's provenance; `finish` is called when the products are there, before the
    record says so.

    Raises LockedError if it is at work elsewhere, StrangersError if its folder holds what this study did not
    make (unless `adopt`), JobFailedError if it fails. `study` is how messages call it: its folder by default.
    """
    lock = JobLock(layout.lock(job), job=job.name, study=study or str(layout.root), log=log)
    with stopped_by_signals(), lock:
        before = layout.read_record(job.name)
        if before and is_done(job, fingerprint, before):
            log(f"{job.name}: done before, in {duration(before.seconds)}")
            layout.write_stamp(job.name, fingerprint)
            return before
        adopted = claim(job, fingerprint, before, adopt=adopt, log=log)
        record = opening_record(job, fingerprint, before, adopted=adopted, seed=seed)
        record = replace(record, provenance={**record.provenance, **(facts or {})})
        return Attempt(job, record, layout, log, lock, finish).run()


def is_done(job: Job, fingerprint: str, record: Record) -> bool:
    """Whether it was done for this fingerprint and its products are there."""
    same = record.state == DONE and record.fingerprint == fingerprint
    return same and is_whole(job, fingerprint)


def opening_record(
    job: Job, fingerprint: str, before: Record | None, *, adopted: bool, seed: int | None
) -> Record:
    """Of an attempt that begins; attempts and time are counted per fingerprint."""
    same = before if before and before.fingerprint == fingerprint else None
    return Record(
        job=job.name,
        kind=job.kind,
        state=RUNNING,
        fingerprint=fingerprint,
        identity=dict(job.identity),
        attempts=1 + (same.attempts if same else 0),
        started=utc_now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=slurm.own_job(),
        command=str(job.command),
        seed=seed,
        adopted=adopted or bool(same and same.adopted),
        seconds=same.seconds if same else 0.0,
        provenance=provenance(gpu=job.gpus > 0),
    )


class Attempt:
    """One attempt at a job, under its lock."""

    def __init__(
        self, job: Job, record: Record, layout: Layout, log: LogFn, lock: JobLock, finish: Callable[[], None]
    ) -> None:
        self.job = job
        self.finish = finish
        self.record = record
        self.layout = layout
        self.log = log
        self.lock = lock
        self.progress = ProgressFile(layout.progress(job.name))
        self.began = time.monotonic()
        self.limit = TimeLimit(job)

    def run(self) -> Record:
        """The record of a job done; a failure is recorded and raised."""
        self.layout.remove_stamps(self.job.name)
        self.layout.write_record(self.record)
        try:
            self.work()
        except KeyboardInterrupt:
            if self.lock.lost:
                raise JobFailedError(f"{self.job.name}: another runner took over {self.lock.file}") from None
            if self.limit.near and self.requeue():
                raise JobFailedError(f"{self.job.name}: {self.record.cause}") from None
            self.fail(Diagnosis(INTERRUPTED, "Run it again: it goes on from where it is."), ())
            raise
        except ChildFailedError as error:
            raise self.failed(diagnose(error.code, error.lines), error.lines) from error
        except MissingProductError as error:
            raise self.failed(Diagnosis(str(error), "The log may tell why."), ()) from error
        except Exception as error:
            raise self.failed(diagnose(1, [f"{type(error).__name__}: {error}"]), ()) from error
        return self.succeed()

    def work(self) -> None:
        take_back(self.job, self.record.fingerprint, self.log)
        mark(self.job, self.record.fingerprint)
        command, resumed_from = command_left(self.job, self.log, adopted=self.record.adopted)
        self.record = replace(self.record, resumed_from=resumed_from, command=str(command or ""))
        if command is not None:
            with gpu_slots(self.job.gpus, slots_folder(), self.log) as slots:
                command = replace(command, variables={**command.variables, **slots.variables})
                self.record = replace(self.record, command=str(command))
                self.layout.write_record(self.record)
                self.execute(command, slots.descriptors)
        if absent := missing(self.job):
            raise MissingProductError(f"it ended as if it was done, but {', '.join(absent)} is missing")

    def execute(self, command: Command, descriptors: Sequence[int]) -> None:
        self.head_log(command)
        self.log(f"$ {command}")
        self.began = time.monotonic()  # waiting for a GPU is no work
        with self.limit:
            run_child(
                command.argv(),
                environment=command.variables,
                log_file=self.layout.log_file(self.job.name),
                show=watcher(self.job, self.log, self.progress),
                inherit=descriptors,
                started=self.lock.add_process,
            )

    def head_log(self, command: Command) -> None:
        """A line that tells the attempts in a log apart."""
        log_file = self.layout.log_file(self.job.name)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        folders = [
            f"{name}={shlex.quote(value)}" for name, value in os.environ.items() if name.startswith("nnUNet_")
        ]
        with log_file.open("a", encoding="utf-8") as stream:
            stream.write(
                f"\n=== {self.job.name}, attempt {self.record.attempts}, {self.record.started}, "
                f"{self.record.host}, process {self.record.pid}\n=== {' '.join([*folders, str(command)])}\n"
            )

    def succeed(self) -> Record:
        """The record first: a stamp without one would say less than it seems to."""
        self.finish()
        self.end(DONE, products=tuple(map(str, self.job.products)))
        self.layout.write_stamp(self.job.name, self.record.fingerprint)
        self.log(f"{self.job.name}: done in {duration(self.record.seconds)}")
        return self.record

    def failed(self, diagnosis: Diagnosis, lines: Sequence[str]) -> JobFailedError:
        self.fail(diagnosis, lines)
        quoted = "".join(f"\n    {line[:200]}" for line in lines[-TAIL_LINES:])
        return JobFailedError(
            f"{self.job.name} failed: {diagnosis.cause}\n  {diagnosis.remedy}{quoted}\n"
            f"  The whole log: {self.layout.log_file(self.job.name)}"
        )

    def requeue(self) -> bool:
        """The record first: SLURM ends this process then."""
        self.end(REQUEUED, cause="SLURM's time limit was near: it goes on in another run")
        return slurm.requeue()

    def fail(self, diagnosis: Diagnosis, lines: Sequence[str]) -> None:
        """A record that cannot be written, as on a full disk, must not hide why the job failed."""
        try:
            self.end(FAILED, cause=diagnosis.cause, remedy=diagnosis.remedy, tail=tuple(lines[-TAIL_LINES:]))
        except OSError as error:
            self.log(f"the record of {self.job.name} could not be written either: {error}")

    def end(self, state: str, **changes: object) -> None:
        self.record = replace(
            self.record,
            state=state,
            ended=utc_now(),
            seconds=self.record.seconds + time.monotonic() - self.began,
            progress=dict(self.progress.numbers),
            **changes,  # type: ignore[arg-type]
        )
        self.layout.write_record(self.record)
        self.progress.file.unlink(missing_ok=True)
