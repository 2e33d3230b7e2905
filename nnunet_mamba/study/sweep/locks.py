"""One job, one process, over studies and hosts that share a file system.

A lock is a file that exists: it names its owner, who touches it every half minute. A dead owner's lock is
taken over: one whose processes have ended on this host, or elsewhere with their SLURM job, or that nobody has
touched for ten minutes.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.processes import Process, this_process
from nnunet_mamba.study.sweep.times import utc_now

TOUCH_S = 30.0
SILENT_S = 600.0  # a host that has not touched its lock for so long is taken for dead


class LockedError(ValueError):
    """Somebody else is at work on the same thing."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, and for what. `token` is of this one taking of it."""

    token: str
    job: str
    study: str
    since: str
    processes: tuple[Process, ...]  # the runner, and its command once it runs

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """A lock that was cut short, by a crash or because it is being written, names nobody."""
        try:
            content = json.loads(text)
            return cls(**{**content, "processes": tuple(Process(**p) for p in content["processes"])})
        except (ValueError, TypeError, KeyError):
            return cls("unreadable", "a job", "an unknown study", "an unknown time", ())

    def __str__(self) -> str:
        """The last process is the one that matters: a command may outlive the runner that started it."""
        who = str(self.processes[-1]) if self.processes else "an unknown process"
        return f"{who}, for {self.job} of {self.study}, since {self.since}"


class JobLock:
    """Held within `with`. Should somebody take it over, this process gets SIGTERM and `lost` is true."""

    def __init__(self, file: Path, *, job: str, study: str, log: LogFn) -> None:
        self.file = file
        self.owner = Owner(uuid.uuid4().hex, job, study, utc_now(), (this_process(),))
        self.log = log
        self.lost = False
        self._ended = threading.Event()
        self._toucher = threading.Thread(target=self._touch_on, daemon=True)

    def __enter__(self) -> JobLock:
        self._take()
        self._toucher.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._toucher.join()
        if self._ours():
            self.file.unlink(missing_ok=True)

    def add_process(self, pid: int) -> None:
        """A command that works under this lock: while it lives, the lock does too."""
        self.owner = replace(self.owner, processes=(*self.owner.processes, Process.of(pid)))
        with suppress(OSError):  # on a full disk the runner alone stands for it
            write_text(self.file, self.owner.to_json())

    def _take(self) -> None:
        while not self._create():
            owner = read_owner(self.file)
            if owner is None:
                continue  # given back in this moment
            self._refuse_living(owner)
            if self._take_over(owner):
                return

    def check(self) -> None:
        """Raise LockedError if somebody holds the lock, without taking it."""
        owner = read_owner(self.file)
        if owner is not None:
            self._refuse_living(owner)

    def _refuse_living(self, owner: Owner) -> None:
        if alive(self.file, owner) and not ended_with_its_job(self.file, owner):
            raise LockedError(
                f"{self.owner.job} is at work already: {owner}. Wait for it or stop it. If you are sure that "
                f"it is dead, remove {self.file}"
            )

    def _create(self) -> bool:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(self.owner.to_json())
                stream.flush()
                os.fsync(descriptor)
        except OSError:
            self.file.unlink(missing_ok=True)
            raise
        return True

    def _take_over(self, dead: Owner) -> bool:
        """Replace a dead owner's lock; False if somebody was faster.

        Only who holds the lock on that owner's token may: the file cannot change from one live owner to
        another while two processes both see the dead one in it.
        """
        guard = self.file.with_name(f"{self.file.name}.over-{dead.token}")
        with JobLock(guard, job=self.owner.job, study=self.owner.study, log=self.log):
            if read_owner(self.file) != dead:
                return False
            write_text(self.file, self.owner.to_json())
        self.log(f"taking over the lock of a dead owner: {dead}")
        return True

    def _ours(self) -> bool:
        owner = read_owner(self.file)
        return owner is not None and owner.token == self.owner.token

    def _touch_on(self) -> None:
        while not self._ended.wait(TOUCH_S):
            with suppress(OSError):  # a file system that is away for a while; the next touch tells
                if self._ours() or (not self.file.exists() and self._create()):
                    os.utime(self.file)
                else:
                    self.lost = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return


def read_owner(file: Path) -> Owner | None:
    """None where there is no lock."""
    try:
        return Owner.from_json(file.read_text())
    except FileNotFoundError:
        return None


def holder(file: Path) -> Owner | None:
    """Who is at work under this lock right now; None if nobody is."""
    owner = read_owner(file)
    return owner if owner and alive(file, owner) else None


def alive(file: Path, owner: Owner) -> bool:
    """Judged by the processes where they can be seen, by the last touch of the lock elsewhere."""
    gone = [process.gone() for process in owner.processes]
    if gone and all(gone):
        return False
    return False in gone or silence_s(file) < SILENT_S


def ended_with_its_job(file: Path, owner: Owner) -> bool:
    """Whether SLURM knows that an owner on another host is dead: asked once, before a refusal.

    An owner in the very job of this process ran before the job was queued again, if it is silent.
    """
    gone = [(process.slurm_job, process.gone()) for process in owner.processes]
    jobs = {job for job, over in gone if over is None}
    if not all(jobs) or not jobs or False in dict(gone).values():
        return False
    if jobs == {slurm.own_job()}:
        return silence_s(file) > 3 * TOUCH_S
    return all(slurm.ended(job) for job in jobs)


def silence_s(file: Path) -> float:
    """Since the last touch, by the clock of the file system: hosts may disagree about the time."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".clock-") as clock:
        now = os.fstat(clock.fileno()).st_mtime
    try:
        return now - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
