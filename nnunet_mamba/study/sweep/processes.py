"""Naming a process so that another host, a container or a later boot does not take it for one of its own."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.study.sweep import slurm


@dataclass(frozen=True)
class Process:
    """One process. `started` is "" where the system does not tell it."""

    host: str
    numbering: str  # the space that `pid` belongs to: containers may each have their own
    pid: int
    started: str  # boot and clock tick: a pid is given out again, the pair is not
    slurm_job: str = ""  # that it belongs to

    @classmethod
    def of(cls, pid: int) -> Process:
        """A process of this host."""
        return cls(socket.gethostname(), _numbering(), pid, _started(pid), slurm.own_job())

    def gone(self) -> bool | None:
        """Whether it has ended; None where that cannot be seen from here."""
        if not self.started or (self.host, self.numbering) != (socket.gethostname(), _numbering()):
            return None
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _numbering() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Empty for a process that has ended, one that waits to be collected included."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else f"{boot}:{fields[18]}"


def this_process() -> Process:
    return Process.of(os.getpid())
