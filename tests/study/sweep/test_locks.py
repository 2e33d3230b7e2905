"""Locks: one of many processes gets it, and the others are told which."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from nnunet_mamba.study.sweep import locks
from nnunet_mamba.study.sweep.locks import (
    JobLock,
    LockedError,
    Owner,
    Process,
    get_holder,
    seconds_since_touch,
    this_process,
)

DEAD = replace(this_process(), started="an earlier boot:1")
CONTENDER = """
import sys, time
from pathlib import Path
from nnunet_mamba.study.sweep.locks import JobLock, LockedError
print("ready", flush=True)
start = float(sys.stdin.readline())
while time.time() < start:
    pass
try:
    with JobLock(Path(sys.argv[1]), job="j", study="s", log=lambda line: None):
        print("won", flush=True)
        sys.stdin.read()  # until all have said what they got
except LockedError:
    print("refused", flush=True)
"""


def lock(file, job="job") -> JobLock:
    return JobLock(file, job=job, study="study", log=lambda line: None)


def contenders(file, n: int) -> list[str]:
    """Return the output of `n` processes that want the lock in the same moment."""
    command = [sys.executable, "-c", CONTENDER, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(n)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * n
    start = time.time() + 0.1
    for process in started:
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    said = sorted(process.stdout.readline().strip() for process in started)
    for process in started:
        process.communicate()  # closes stdin
    return said


def test_one_of_many_at_once_wins_a_free_lock(tmp_path):
    assert contenders(tmp_path / "a.lock", 6) == ["refused"] * 5 + ["won"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("round_", range(2))
def test_one_of_many_at_once_wins_a_dead_owners_lock(tmp_path, round_):
    file = tmp_path / "a.lock"
    file.write_text(Owner("token", "j", "s", "then", (DEAD,)).to_json())
    assert contenders(file, 6) == ["refused"] * 5 + ["won"]
    assert list(tmp_path.iterdir()) == []


def test_threads_find_one_winner_too(tmp_path):
    file, won, barrier = tmp_path / "a.lock", [], threading.Barrier(8)
    file.write_text(Owner("token", "j", "s", "then", (DEAD,)).to_json())

    def contend() -> None:
        barrier.wait()
        try:
            with lock(file):
                won.append(1)
                time.sleep(0.5)
        except LockedError:
            pass

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_who_crashed_while_taking_over_does_not_block_the_next(tmp_path):
    file = tmp_path / "a.lock"
    file.write_text(Owner("token", "j", "s", "then", (DEAD,)).to_json())
    (tmp_path / "a.lock.over-token").write_text(Owner("guard", "j", "s", "then", (DEAD,)).to_json())
    with lock(file):
        assert get_holder(file).processes == (this_process(),)
    assert list(tmp_path.iterdir()) == []


def test_the_holder_is_told_and_none_for_a_free_or_dead_lock(tmp_path):
    file = tmp_path / "a.lock"
    assert get_holder(file) is None
    with lock(file, "train-0"):
        assert get_holder(file).job == "train-0"
        assert str(get_holder(file)).startswith(f"process {os.getpid()} on ")
    file.write_text(Owner("token", "j", "s", "then", (DEAD,)).to_json())
    assert get_holder(file) is None


def wait_until(true) -> None:
    """Wait for ten seconds at most; a busy machine may leave the thread that touches a lock waiting."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_a_lock_is_touched_while_it_is_held_and_written_again_when_somebody_removes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "TOUCH_S", 0.05)
    file = tmp_path / "a.lock"
    with lock(file):
        os.utime(file, (0, 0))
        wait_until(lambda: seconds_since_touch(file) < 5)
        file.unlink()
        wait_until(lambda: (owner := get_holder(file)) and owner.job == "job")
    assert not file.exists()


def test_who_has_lost_the_lock_is_asked_to_stop_and_leaves_the_new_owners_file(tmp_path, monkeypatch):
    """Take the lock away, as when a suspended laptop wakes up."""
    monkeypatch.setattr(locks, "TOUCH_S", 0.05)
    asked = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    file = tmp_path / "a.lock"
    try:
        with lock(file) as held:
            file.write_text(Owner("other", "j", "s", "now", (this_process(),)).to_json())
            wait_until(lambda: held.lost)
        assert held.lost and asked == [signal.SIGTERM]
        assert file.exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_silence_of_a_lock_is_measured_by_the_file_system_and_not_by_this_clock(tmp_path, monkeypatch):
    file = tmp_path / "a.lock"
    file.touch()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert -1 < seconds_since_touch(file) < 5


def test_a_process_is_known_by_its_start_and_not_by_its_number_alone():
    assert this_process().has_ended() is False
    assert replace(this_process(), started="earlier").has_ended() is True
    assert replace(this_process(), host="elsewhere").has_ended() is None
    assert Process.from_pid(2**22 + 1).started == ""
