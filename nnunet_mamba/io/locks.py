"""Locks on files by the operating system (flock): free once the last process that holds them has ended.

On a file system that several hosts share they hold for all of them, if it is mounted with locks, as NFS is by
default. The library filelock takes the same locks, but keeps its descriptor to itself: a command, which may
outlive the process that started it, could not inherit the lock.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HAS_LOCKS = find_spec("fcntl") is not None  # not on Windows
ASK_EVERY_S = 0.2
PATIENCE_S = 1.0  # with who only looks whether the lock is free
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class LockedError(ValueError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class HeldLock:
    """Lock that this process holds, and every command that inherits the `descriptors`."""

    descriptors: tuple[int, ...] = ()

    def write_owner(self, owner: str) -> None:
        """Tell others who holds it; on a full disk they are not told."""
        for descriptor in self.descriptors:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, owner.encode(), 0)


@contextmanager
def hold_lock(
    file: Path, log: Callable[[str], None], *, owner: str = "", shared: bool = False, wait: bool = False
) -> Iterator[HeldLock]:
    """Hold the lock on a file, which is there for as long.

    Args:
        log: called with a line if the lock has to be waited for, or if there are no locks.
        owner: who holds it, for the messages of others.
        shared: hold it together with others that ask for it shared; the file stays.
        wait: wait until it is free; otherwise raise LockedError.
    """
    descriptor = _acquire(file, log, shared=shared, wait=wait)
    if descriptor is None:
        yield HeldLock()
        return
    lock = HeldLock((descriptor,))
    try:
        if owner:
            lock.write_owner(f"{owner}, and perhaps others" if shared else owner)
        yield lock
    finally:
        if not shared:
            file.unlink(missing_ok=True)
        os.close(descriptor)


def find_owner(file: Path) -> str | None:
    """Return who holds the lock, None if it is free."""
    with suppress(OSError, ImportError):
        descriptor = os.open(file, os.O_RDONLY)  # it may be another user's
        try:
            return None if try_lock(descriptor, shared=True) else _read_owner(descriptor)
        finally:
            os.close(descriptor)
    return None


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file if no other process holds it, and return whether that was so."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _acquire(file: Path, log: Callable[[str], None], *, shared: bool, wait: bool) -> int | None:
    """Return the descriptor of the locked file, None where there are no locks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    started_at, is_logged = time.monotonic(), False
    while True:
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            if try_lock(descriptor, shared=shared) and _is_in_place(file, descriptor):
                return descriptor
            owner = _read_owner(descriptor)
        except (OSError, ImportError) as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            log(f"note: {file.parent} has no locks; work on it from one place at a time")
            return None
        os.close(descriptor)
        if time.monotonic() - started_at > PATIENCE_S:
            if not wait:
                raise LockedError(f"{file} is held by {owner}; wait for it, or stop it.")
            if not is_logged:
                log(f"waiting: {file} is held by {owner}")
                is_logged = True
        time.sleep(ASK_EVERY_S)


def _is_in_place(file: Path, descriptor: int) -> bool:
    """Return whether the open file is still the one of this name: its last owner may have removed it."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_owner(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
