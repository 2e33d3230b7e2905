"""Running one job of a sweep to its end, so that nothing is lost and nothing is done twice.

Under the job's lock: results in its folder are adopted or archived, the command does what is left to do, its
products are checked, and record and stamp state how it went.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from nnunet_mamba.io.locks import HeldLock, hold_lock
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import (
    LogFn,
    PlainLines,
    PredictionLines,
    ProgressFn,
    TrainingLines,
    format_duration,
)
from nnunet_mamba.nnunet.subprocesses import TAIL_LINES, ChildFailedError, interrupt_on_signals, run_child
from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.diagnosis import INTERRUPTED, Diagnosis, diagnose
from nnunet_mamba.study.sweep.existing_results import (
    is_complete,
    missing_products,
    prepare_output,
    remaining_command,
    restore_archived,
    write_marker,
)
from nnunet_mamba.study.sweep.gpus import gpu_slots, slots_folder
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.preprocessed_data import PreprocessedData, hold_data
from nnunet_mamba.study.sweep.records import (
    DONE,
    FAILED,
    REQUEUED,
    RUNNING,
    Layout,
    ProgressFile,
    Record,
    collect_provenance,
    utc_now,
)

# nnU-Net then trains on a random split instead of the fold that was asked for
RANDOM_SPLIT = re.compile(r"You requested fold \d+ for training but splits contain only \d+")


class JobFailedError(RuntimeError):
    """A job ended without its result; the message states the cause, what to do, and the log file."""


class MissingProductError(RuntimeError):
    """A command ended well, but did not make all its products."""


class ChangedInputError(RuntimeError):
    """An input of the job was changed after the jobs that made it."""


class RandomSplitError(RuntimeError):
    """A training is about to use a random split; the message is nnU-Net's line about it."""


def run_job(
    job: Job,
    cache_key: str,
    layout: Layout,
    *,
    log: LogFn,
    study: str = "",
    seed: int | None = None,
    adopt: bool = False,
    extra_provenance: Mapping[str, str] | None = None,
    check: Callable[[], None] = lambda: None,
    before_record: Callable[[], None] = lambda: None,
) -> Record:
    """Run what is left of `job`; return its record, which is written together with its stamp.

    `check` is called before anything runs, and may raise the cause of a failure; `before_record` when the
    products exist, before the record states it. `study` is its name in messages, by default its folder.

    Raises LockedError if another process works on the job, UnmanagedResultsError if its folder holds results
    that no study made (unless `adopt`), JobFailedError if it fails.
    """
    task = f"{job.name} of {study or layout.root}"
    owner = describe_owner(task, os.getpid())
    with interrupt_on_signals(), hold_lock(layout.lock(job), log, owner=owner) as lock:
        before = layout.read_record(job.name)
        if before and is_done(job, cache_key, before):
            log(f"{job.name}: done before, in {format_duration(before.seconds)}")
            layout.write_stamp(job.name, cache_key)
            return before
        adopted = prepare_output(job, cache_key, before, adopt=adopt, log=log)
        record = create_record(job, cache_key, before, adopted=adopted, seed=seed)
        record = replace(record, provenance={**record.provenance, **(extra_provenance or {})})
        return Attempt(job, record, layout, log, lock, task, check, before_record).run()


def describe_owner(task: str, pid: int) -> str:
    """Return who holds a lock, in words."""
    return f"process {pid} on {socket.gethostname()}, for {task}, since {utc_now()}"


def is_done(job: Job, cache_key: str, record: Record) -> bool:
    """Return whether the job was done for this cache key and its products exist."""
    same = record.state == DONE and record.cache_key == cache_key
    return same and is_complete(job, cache_key)


def create_record(
    job: Job, cache_key: str, before: Record | None, *, adopted: bool, seed: int | None
) -> Record:
    """Return the record of a new attempt; attempts and time are counted per cache key."""
    same = before if before and before.cache_key == cache_key else None
    return Record(
        job=job.name,
        kind=job.kind,
        state=RUNNING,
        cache_key=cache_key,
        cache_inputs=dict(job.cache_inputs),
        attempts=1 + (same.attempts if same else 0),
        started=utc_now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=slurm.own_job_id(),
        command=str(job.command),
        seed=seed,
        adopted=adopted or bool(same and same.adopted),
        seconds=same.seconds if same else 0.0,
        provenance=collect_provenance(gpu=job.gpus > 0),
    )


@dataclass
class Attempt:
    """One attempt at a job, under its lock; `task` names it to others who want the lock."""

    job: Job
    record: Record
    layout: Layout
    log: LogFn
    lock: HeldLock
    task: str
    check: Callable[[], None]
    before_record: Callable[[], None]

    def __post_init__(self) -> None:
        self.owner = describe_owner(self.task, os.getpid())
        self.progress = ProgressFile(self.layout.progress(self.job.name))
        self.started_at = time.monotonic()
        self.limit = slurm.TimeLimit(self.job)

    def run(self) -> Record:
        """Return the record of a job done; a failure is recorded and raised."""
        self.layout.remove_stamps(self.job.name)
        self.layout.write_record(self.record)
        try:
            self.work()
        except KeyboardInterrupt:
            if self.limit.near and self.requeue():
                raise JobFailedError(f"{self.job.name}: {self.record.cause}") from None
            self.record_failure(Diagnosis(INTERRUPTED, "Run it again: it goes on from where it is."), ())
            raise
        except ChildFailedError as error:
            raise self.fail(diagnose(error.code, error.lines), error.lines) from error
        except MissingProductError as error:
            raise self.fail(Diagnosis(str(error), "See the log."), ()) from error
        except ChangedInputError as error:
            raise self.fail(Diagnosis(str(error), "Run the sweep again."), ()) from error
        except Exception as error:
            raise self.fail(diagnose(1, [f"{type(error).__name__}: {error}"]), ()) from error
        return self.succeed()

    def work(self) -> None:
        self.check()
        restore_archived(self.job, self.record.cache_key, self.log)
        write_marker(self.job, self.record.cache_key)
        if self.job.kind == "preprocess" and self.job.data is not None:
            self.preprocess(self.job.data)
        else:
            self.run_remaining()
        if absent := missing_products(self.job):
            raise MissingProductError(f"it ended as if it was done, but {', '.join(absent)} is missing")

    def preprocess(self, data: PreprocessedData) -> None:
        """Make the data, unless other plans or studies have made the same."""
        with hold_data(data, self.tell, owner=self.owner, fill=True) as (lock, is_current):
            if is_current:
                self.tell(f"{data.folder} holds these data already")
            else:
                made_from = data.describe()
                data.forget()
                self.execute(self.job.command, lock.descriptors)
                data.mark(made_from)
            data.add(self.record.cache_key)

    def run_remaining(self) -> None:
        """Run what is left to do, on GPUs and on preprocessed data that nobody changes meanwhile."""
        command, resumed_from = remaining_command(self.job, self.log, adopted=self.record.adopted)
        self.record = replace(self.record, resumed_from=resumed_from, command=str(command or ""))
        if command is None:
            return
        with ExitStack() as held:
            descriptors = list[int]()
            if self.job.lock is not None:
                lock = held.enter_context(hold_lock(self.job.lock, self.tell, owner=self.owner, wait=True))
                descriptors += lock.descriptors
            if self.job.data is not None:
                lock, is_current = held.enter_context(hold_data(self.job.data, self.tell, owner=self.owner))
                descriptors += lock.descriptors
                if not is_current:
                    raise ChangedInputError(
                        f"{self.job.data.folder} was made from other settings or data since; plans that "
                        "differ in them cannot share a data_identifier"
                    )
            slots = held.enter_context(gpu_slots(self.job.gpus, slots_folder(), self.tell))
            command = replace(command, variables={**command.variables, **slots.variables})
            self.record = replace(self.record, command=str(command))
            self.layout.write_record(self.record)
            self.execute(command, [*descriptors, *slots.descriptors])

    def execute(self, command: Command, descriptors: Sequence[int]) -> None:
        self.write_log_header(command)
        self.log(f"$ {command}")
        self.started_at = time.monotonic()  # waiting for a GPU is no work
        with self.limit:
            run_child(
                command.argv(),
                environment=command.variables,
                log_file=self.layout.log_file(self.job.name),
                show=create_watcher(self.job, self.log, self.progress),
                inherit=[*self.lock.descriptors, *descriptors],
                started=lambda pid: self.lock.write_owner(describe_owner(self.task, pid)),
            )

    def tell(self, text: str) -> None:
        """Log a line about this job, to its own log and for `sweep status` too."""
        self.log(text)
        self.progress({"text": text})
        self.append_to_log(f"{text}\n")

    def write_log_header(self, command: Command) -> None:
        """Write a line that separates the attempts in a log."""
        folders = [
            f"{name}={shlex.quote(value)}" for name, value in os.environ.items() if name.startswith("nnUNet_")
        ]
        self.append_to_log(
            f"\n=== {self.job.name}, attempt {self.record.attempts}, {self.record.started}, "
            f"{self.record.host}, process {self.record.pid}\n=== {' '.join([*folders, str(command)])}\n"
        )

    def append_to_log(self, text: str) -> None:
        log_file = self.layout.log_file(self.job.name)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("a", encoding="utf-8") as stream:
            stream.write(text)

    def succeed(self) -> Record:
        """Write the record, then the stamp: a stamp without a record would not say what was done."""
        self.before_record()
        self.end(DONE, products=tuple(map(str, self.job.products)))
        self.layout.write_stamp(self.job.name, self.record.cache_key)
        self.log(f"{self.job.name}: done in {format_duration(self.record.seconds)}")
        return self.record

    def fail(self, diagnosis: Diagnosis, lines: Sequence[str]) -> JobFailedError:
        """Record a failure; return the error to raise."""
        self.record_failure(diagnosis, lines)
        quoted = "".join(f"\n    {line[:200]}" for line in lines[-TAIL_LINES:])
        return JobFailedError(
            f"{self.job.name} failed: {diagnosis.cause}\n  {diagnosis.fix}{quoted}\n"
            f"  The whole log: {self.layout.log_file(self.job.name)}"
        )

    def requeue(self) -> bool:
        """Write the record, then queue the job again: SLURM ends this process for that."""
        self.end(REQUEUED, cause="SLURM's time limit was near: it goes on in another run")
        return slurm.requeue()

    def record_failure(self, diagnosis: Diagnosis, lines: Sequence[str]) -> None:
        """Write the record; an error of that, as on a full disk, must not hide why the job failed."""
        try:
            self.end(FAILED, cause=diagnosis.cause, fix=diagnosis.fix, tail=tuple(lines[-TAIL_LINES:]))
        except OSError as error:
            self.log(f"the record of {self.job.name} could not be written either: {error}")

    def end(self, state: str, **changes: object) -> None:
        self.record = replace(
            self.record,
            state=state,
            ended=utc_now(),
            seconds=self.record.seconds + time.monotonic() - self.started_at,
            progress=dict(self.progress.numbers),
            **changes,  # type: ignore[arg-type]
        )
        self.layout.write_record(self.record)
        self.progress.file.unlink(missing_ok=True)


def create_watcher(job: Job, log: LogFn, report_progress: ProgressFn) -> Callable[[str], None]:
    """Return a function for each line of the command's output; it stops a training on a random split."""
    show = create_console(job, log, report_progress)

    def watch(line: str) -> None:
        if job.kind == "train" and RANDOM_SPLIT.search(line):
            raise RandomSplitError(line.strip())
        show(line)

    return watch


def create_console(job: Job, log: LogFn, report_progress: ProgressFn) -> Callable[[str], None]:
    """Return what shows the output of a command of this kind."""
    if job.kind == "train" and job.own_folder is not None:
        return TrainingLines(log, job.own_folder, report_progress)
    if job.kind == "predict":
        return PredictionLines(log, report_progress)
    return PlainLines(log, report_progress)
