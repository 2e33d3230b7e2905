"""Locks: one process per job, over studies and hosts that share a file system.

A lock is a file that names its owner, who touches it every half minute. A dead owner's lock is taken over:
one whose processes have ended on this host, or elsewhere with their SLURM job, or that has not been touched
for ten minutes. Processes are named so that another host, a container or a later boot cannot mistake them for
its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
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
from nnunet_mamba.study.sweep.records import utc_now

TOUCH_S = 30.0
SILENT_S = 600.0  # a host that has not touched its lock for so long is taken for dead


@dataclass(frozen=True)
class Process:
    """One process. `started` is "" where the system does not know it."""

    host: str
    numbering: str  # the space that `pid` belongs to: containers may each have their own
    pid: int
    started: str  # boot and clock tick: a pid is given out again, the pair is not
    slurm_job: str = ""  # that it belongs to

    @classmethod
    def from_pid(cls, pid: int) -> Process:
        """Return a process of this host."""
        return cls(socket.gethostname(), _pid_namespace(), pid, _start_time(pid), slurm.own_job_id())

    def has_ended(self) -> bool | None:
        """Return whether it has ended; None where that cannot be seen from here."""
        if not self.started or (self.host, self.numbering) != (socket.gethostname(), _pid_namespace()):
            return None
        return _start_time(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Return boot and clock tick; "" for a process that has ended, zombies included."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else f"{boot}:{fields[18]}"


def this_process() -> Process:
    return Process.from_pid(os.getpid())


class LockedError(ValueError):
    """Another process works on the same job."""


@dataclass(frozen=True)
class Owner:
    """Holder of a lock, and its job. `token` is unique to each time that the lock is taken."""

    token: str
    job: str
    study: str
    since: str
    processes: tuple[Process, ...]  # the runner, and its command once it runs

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Return the owner; one without processes for a file cut short by a crash or just being written."""
        try:
            content = json.loads(text)
            return cls(**{**content, "processes": tuple(Process(**p) for p in content["processes"])})
        except (ValueError, TypeError, KeyError):
            return cls("unreadable", "a job", "an unknown study", "an unknown time", ())

    def __str__(self) -> str:
        """Return the owner as messages name it, by its last process: a command may outlive its runner."""
        who = str(self.processes[-1]) if self.processes else "an unknown process"
        return f"{who}, for {self.job} of {self.study}, since {self.since}"


class JobLock:
    """Lock held within `with`. If another process takes it over, this one gets SIGTERM and `lost` is true."""

    def __init__(self, file: Path, *, job: str, study: str, log: LogFn) -> None:
        self.file = file
        self.owner = Owner(uuid.uuid4().hex, job, study, utc_now(), (this_process(),))
        self.log = log
        self.lost = False
        self._ended = threading.Event()
        self._touching = threading.Thread(target=self._keep_touching, daemon=True)

    def __enter__(self) -> JobLock:
        self._take()
        self._touching.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._touching.join()
        if self._is_ours():
            self.file.unlink(missing_ok=True)

    def add_process(self, pid: int) -> None:
        """Add a command that works under this lock: the lock lives as long as the command."""
        self.owner = replace(self.owner, processes=(*self.owner.processes, Process.from_pid(pid)))
        with suppress(OSError):  # on a full disk the runner alone is named
            write_text(self.file, self.owner.to_json())

    def _take(self) -> None:
        while not self._create():
            owner = read_owner(self.file)
            if owner is None:
                continue  # released in this moment
            self._check_dead(owner)
            if self._take_over(owner):
                return

    def check_free(self) -> None:
        """Raise LockedError if another process holds the lock, without taking it."""
        owner = read_owner(self.file)
        if owner is not None:
            self._check_dead(owner)

    def _check_dead(self, owner: Owner) -> None:
        if is_alive(self.file, owner) and not has_ended_with_slurm_job(self.file, owner):
            raise LockedError(
                f"{self.owner.job} is already running: {owner}. Wait for it or stop it. If you are sure that "
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
        """Replace a dead owner's lock; return False if another process was faster.

        Only the holder of a lock on that owner's token may: the file cannot change from one live owner to
        another while two processes both see the dead one in it.
        """
        guard = self.file.with_name(f"{self.file.name}.over-{dead.token}")
        with JobLock(guard, job=self.owner.job, study=self.owner.study, log=self.log):
            if read_owner(self.file) != dead:
                return False
            write_text(self.file, self.owner.to_json())
        self.log(f"taking over the lock of a dead owner: {dead}")
        return True

    def _is_ours(self) -> bool:
        owner = read_owner(self.file)
        return owner is not None and owner.token == self.owner.token

    def _keep_touching(self) -> None:
        while not self._ended.wait(TOUCH_S):
            with suppress(OSError):  # a file system that is away for a while; the next touch tries again
                if self._is_ours() or (not self.file.exists() and self._create()):
                    os.utime(self.file)
                else:
                    self.lost = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return


def read_owner(file: Path) -> Owner | None:
    """Return the owner; None if there is no lock."""
    try:
        return Owner.from_json(file.read_text())
    except FileNotFoundError:
        return None


def get_holder(file: Path) -> Owner | None:
    """Return the owner if it is alive; None for a free lock or a dead owner."""
    owner = read_owner(file)
    return owner if owner and is_alive(file, owner) else None


def is_alive(file: Path, owner: Owner) -> bool:
    """Return whether a process of the owner lives, or, where none can be seen, touched the lock lately."""
    ended = [process.has_ended() for process in owner.processes]
    if ended and all(ended):
        return False
    return False in ended or seconds_since_touch(file) < SILENT_S


def has_ended_with_slurm_job(file: Path, owner: Owner) -> bool:
    """Return whether SLURM knows that an owner on another host is dead; asked once, before a refusal.

    An owner in the very job of this process ran before the job was queued again, if it is silent.
    """
    ended = [(process.slurm_job, process.has_ended()) for process in owner.processes]
    jobs = {job for job, known in ended if known is None}
    if not all(jobs) or not jobs or False in dict(ended).values():
        return False
    if jobs == {slurm.own_job_id()}:
        return seconds_since_touch(file) > 3 * TOUCH_S
    return all(slurm.has_ended(job) for job in jobs)


def seconds_since_touch(file: Path) -> float:
    """Return the time since the last touch by the file system's clock: hosts may disagree about the time."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".clock-") as clock:
        now = os.fstat(clock.fileno()).st_mtime
    try:
        return now - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
