"""Locks: one of many processes gets it, and it is free when the last that holds it has ended."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnunet_mamba.io import locks
from nnunet_mamba.io.locks import LockedError, find_owner, hold_lock

CONTENDER = """
import sys, time
from pathlib import Path
from nnunet_mamba.io.locks import LockedError, hold_lock
print("ready", flush=True)
start = float(sys.stdin.readline())
while time.time() < start:
    pass
try:
    with hold_lock(Path(sys.argv[1]), print):
        print("won", flush=True)
        sys.stdin.read()  # until all have said what they got
except LockedError:
    print("refused", flush=True)
"""
COUNTER = """
import sys
from pathlib import Path
from nnunet_mamba.io import locks
locks.ASK_EVERY_S = 0.001
count = Path(sys.argv[2])
for _ in range(100):
    with locks.hold_lock(Path(sys.argv[1]), lambda line: None, wait=True):
        count.write_text(str(int(count.read_text()) + 1))
"""
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from nnunet_mamba.io.locks import hold_lock
with hold_lock(Path(sys.argv[1]), print, owner="the holder") as lock:
    inherit = lock.descriptors if sys.argv[2] == "lend" else ()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=inherit)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def nothing(line: str) -> None:
    pass


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.lock"


@pytest.fixture
def holder(file):
    """Return a function that starts a process that holds the lock, and a child of it that may inherit it."""
    started = []

    def start(lend: str):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(file), lend], stdout=subprocess.PIPE, text=True
        )
        child = int(process.stdout.readline())
        started.append((process, child))
        return process, child

    yield start
    for process, child in started:
        process.kill()
        kill(child)
        process.communicate()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(true) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_one_of_many_at_once_wins(file):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", CONTENDER, str(file)], **pipes) for _ in range(6)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 6
    start = time.time() + 0.1
    for process in started:
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    said = sorted(process.stdout.readline().strip() for process in started)
    for process in started:
        process.communicate()  # closes stdin
    assert said == ["refused"] * 5 + ["won"]
    assert not file.exists()


def test_nobody_enters_beside_another_though_the_file_is_removed_each_time(file, tmp_path):
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", COUNTER, str(file), str(count)]
    started = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0] * 4
    assert count.read_text() == "400"


def test_threads_of_one_process_exclude_each_other_too(file):
    with hold_lock(file, nothing), pytest.raises(LockedError), hold_lock(file, nothing):
        raise AssertionError("two hold it")
    won = []
    with hold_lock(file, nothing):
        thread = threading.Thread(target=lambda: won.append(find_owner(file)))
        thread.start()
        thread.join()
    assert won == ["another process"]


def test_a_killed_holder_frees_it_and_a_command_that_inherited_it_does_not(file, holder):
    process, _ = holder("keep")
    with pytest.raises(LockedError, match=r"a\.lock is held by the holder"), hold_lock(file, nothing):
        raise AssertionError("two hold it")
    process.kill()
    process.wait()
    with hold_lock(file, nothing):
        pass
    process, child = holder("lend")
    process.kill()
    process.wait()
    assert find_owner(file) == "the holder"
    kill(child)
    wait_until(lambda: find_owner(file) is None)
    with hold_lock(file, nothing):
        pass
    assert not file.exists()


def test_readers_share_it_and_a_writer_waits_for_them(file, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.05)
    monkeypatch.setattr(locks, "ASK_EVERY_S", 0.01)
    said, entered = [], threading.Event()

    def write() -> None:
        with hold_lock(file, said.append, wait=True):
            entered.set()

    with hold_lock(file, nothing, shared=True), hold_lock(file, nothing, shared=True):
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: said)
        assert not entered.wait(0.2)
    writer.join(10)
    assert entered.is_set() and said == [f"waiting: {file} is held by another process"]


def test_who_looks_does_not_keep_others_from_taking_it(file):
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            find_owner(file)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            with hold_lock(file, nothing):
                pass
    finally:
        stop.set()
        watcher.join()


def test_the_owner_is_told_and_can_change(file):
    assert find_owner(file) is None
    with hold_lock(file, nothing, owner="a long name at first") as lock:
        assert find_owner(file) == "a long name at first"
        lock.write_owner("b")
        assert find_owner(file) == "b"
    assert find_owner(file) is None and not file.exists()


def test_a_file_system_without_locks_is_told_and_worked_on(file, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "try_lock", refuse)
    said = []
    with hold_lock(file, said.append) as lock:
        assert lock.descriptors == ()
    assert "has no locks" in said[0] and find_owner(file) is None


def test_another_error_is_not_taken_for_a_missing_lock(file, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks, "try_lock", refuse)
    with pytest.raises(OSError, match="Input/output error"), hold_lock(file, nothing):
        raise AssertionError("nothing was locked")
