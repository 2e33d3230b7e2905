"""Faults while a training runs: the next attempt loses no more than it must.

The fake training saves after each of its five epochs and never fails twice: what is checked is the way back.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from nnunet_mamba.io.locks import LockedError, find_owner, hold_lock
from nnunet_mamba.study.sweep.run_job import JobFailedError

RUNNER = """
import sys
from pathlib import Path
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet import commands
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import Layout
from nnunet_mamba.study.sweep.run_job import run_job

fold, out, program = map(Path, sys.argv[1:])
commands.find_program = lambda name: program
job = Job(
    "train-x-0", "train", Command("nnUNetv2_train", ("900",)), own_folder=fold,
    products=(fold / "checkpoint_final.pth", fold / "validation" / "summary.json"),
)
run_job(job, "f1", Layout(out), log=lambda line: print(line, flush=True))
"""


@pytest.fixture
def runner(bench, tmp_path):
    """Return a function that starts a runner in a process of its own, and end what is left of it."""
    started = []

    def start(trouble: str = "") -> subprocess.Popen:
        arguments = [str(bench.fold), str(bench.layout.root), str(tmp_path / "bin" / "nnUNetv2_train")]
        environment = {**os.environ, "FAKE_TROUBLE": trouble}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", RUNNER, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    bench.job.command.argv()  # writes the fake
    yield start
    for process in started:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def wait_for(line: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the log has the line."""
    for _ in range(200):
        if log.is_file() and line in log.read_text():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"{line} never came: {log.read_text()}")


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("killed@3", "killed by SIGKILL"),
        ("oom@3", "the GPU has too little memory"),
        ("full@3", "the disk is full, or a quota is used up"),
    ],
)
def test_a_training_that_dies_in_its_fourth_epoch_is_told_and_goes_on_there(
    bench, monkeypatch, trouble, cause
):
    monkeypatch.setenv("FAKE_TROUBLE", trouble)
    with pytest.raises(JobFailedError, match=f"train-x-0 failed: {cause}") as error:
        bench.run()
    assert str(bench.layout.log_file("train-x-0")) in str(error.value)
    record = bench.record()
    assert (record.state, record.cause, record.progress["epoch"]) == ("failed", cause, 3)
    assert record.fix and record.tail and bench.stamps() == []
    record = bench.run()
    assert (record.state, record.attempts, record.resumed_from) == ("done", 2, "checkpoint_latest.pth")
    assert record.cause is None and record.seconds > bench.record().seconds / 2
    assert bench.flags() == [[], ["--c"]]
    assert epochs_run(bench) == [0, 1, 2, 3, 4]  # each once: nothing was lost


def epochs_run(bench) -> list[int]:
    lines = bench.layout.log_file("train-x-0").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("Epoch ") and "time" not in line]


def test_a_request_to_stop_ends_the_training_and_is_recorded(bench, runner):
    process = runner("wait@2")
    wait_for("waiting", process, bench.layout.log_file("train-x-0"))
    training = owner_pid(bench)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert not is_alive(training)
    assert (bench.record().state, bench.record().cause) == ("failed", "interrupted")
    assert not bench.lock().exists()
    assert bench.run().resumed_from == "checkpoint_latest.pth"


def test_a_runner_that_was_killed_leaves_the_lock_to_its_training(bench, runner):
    process = runner("wait@2")
    wait_for("waiting", process, bench.layout.log_file("train-x-0"))
    process.kill()
    process.wait()
    training = owner_pid(bench)
    assert training != process.pid
    with pytest.raises(LockedError, match=rf"fold_0\.lock is held by process {training} on .*train-x-0 of"):
        bench.run()
    os.kill(training, signal.SIGKILL)
    wait_until_gone(training)
    record = bench.run()
    assert (record.state, record.attempts) == ("done", 2)
    assert epochs_run(bench) == [0, 1, 2, 3, 4]


def owner_pid(bench) -> int:
    """Return the number of the process that is named as the owner of the fold."""
    return int(find_owner(bench.lock()).split()[1])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until_gone(pid: int) -> None:
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")


def test_two_runners_at_once_one_refuses_and_the_other_does_the_work(bench, runner):
    processes = [runner("wait@1"), runner("wait@1")]
    while all(process.poll() is None for process in processes):
        time.sleep(0.05)
    refused, winner = sorted(processes, key=lambda process: process.poll() is None)
    assert re.search(r"LockedError: .*fold_0\.lock is held by process \d+ on", refused.stdout.read())
    wait_for("waiting", winner, bench.layout.log_file("train-x-0"))
    assert len(bench.calls()) == 1


def interrupted(bench, monkeypatch, trouble: str = "oom@3") -> None:
    monkeypatch.setenv("FAKE_TROUBLE", trouble)
    with pytest.raises(JobFailedError):
        bench.run()
    monkeypatch.delenv("FAKE_TROUBLE")
    bench.calls()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def damage(file: Path) -> None:
    """Other bytes in the middle, as a disk may return after a power failure."""
    content = file.read_bytes()
    file.write_bytes(content.replace(b"wwww", b"\0\0\0\0", 5))


@pytest.mark.parametrize(("harm", "told"), [(cut, "not written to its end"), (damage, "is damaged")])
def test_the_checkpoint_before_a_spoilt_latest_one_takes_its_place(bench, monkeypatch, harm, told):
    interrupted(bench, monkeypatch)
    harm(bench.fold / "checkpoint_latest.pth")
    record = bench.run()
    assert any(told in line for line in bench.logged)
    assert record.resumed_from == "checkpoint_latest.pth" and bench.flags() == [["--c"]]
    assert epochs_run(bench) == [0, 1, 2, 2, 3, 4]  # one epoch is lost
    assert "checkpoint_latest.incomplete" in bench.files()


def test_a_missing_latest_checkpoint_is_replaced_by_the_one_before(bench, monkeypatch):
    interrupted(bench, monkeypatch)
    (bench.fold / "checkpoint_latest.pth").unlink()  # killed between two renamings
    bench.run()
    assert epochs_run(bench) == [0, 1, 2, 2, 3, 4]


def test_the_best_checkpoint_is_the_last_resort(bench, monkeypatch):
    interrupted(bench, monkeypatch)
    (bench.fold / "checkpoint_previous.pth").rename(bench.fold / "checkpoint_best.pth")
    cut(bench.fold / "checkpoint_latest.pth")
    assert bench.run().resumed_from == "checkpoint_best.pth"


def test_with_every_checkpoint_cut_short_it_starts_again_and_deletes_nothing(bench, monkeypatch):
    interrupted(bench, monkeypatch)
    for name in ("latest", "previous"):
        cut(bench.fold / f"checkpoint_{name}.pth")
    record = bench.run()
    assert record.state == "done" and record.resumed_from is None and bench.flags() == [[]]
    assert {"checkpoint_latest.incomplete", "checkpoint_previous.incomplete"} <= bench.files()


def test_a_final_checkpoint_cut_short_is_made_again_from_the_latest(bench, monkeypatch):
    interrupted(bench, monkeypatch)
    with zipfile.ZipFile(bench.fold / "checkpoint_final.pth", "w") as archive:
        archive.writestr("epochs", "5")
    cut(bench.fold / "checkpoint_final.pth")
    assert bench.run().state == "done"
    assert bench.epochs("final") == 5


def test_a_validation_that_was_interrupted_is_made_again_without_a_training(bench, monkeypatch):
    monkeypatch.setenv("FAKE_TROUBLE", "lazy")
    with pytest.raises(JobFailedError, match=r"as if it was done, but .*summary.json is missing"):
        bench.run()
    assert bench.record().state == "failed" and bench.stamps() == []
    monkeypatch.delenv("FAKE_TROUBLE")
    bench.calls()
    before = (bench.fold / "checkpoint_final.pth").stat().st_mtime_ns
    assert bench.run().state == "done"
    assert bench.flags() == [["--val"]]
    assert (bench.fold / "checkpoint_final.pth").stat().st_mtime_ns == before


def test_a_fold_that_the_splits_do_not_have_ends_the_run_at_once(bench, monkeypatch):
    monkeypatch.setenv("FAKE_TROUBLE", "split")
    with pytest.raises(JobFailedError, match="the splits do not have this fold"):
        bench.run()
    assert not (bench.fold / "checkpoint_final.pth").exists()


def test_a_program_that_is_not_there_is_a_failure_of_the_job(bench, monkeypatch):
    def missing(name: str) -> Path:
        raise ValueError(f"{name} is not in this environment")

    monkeypatch.setattr("nnunet_mamba.nnunet.commands.find_program", missing)
    with pytest.raises(JobFailedError, match="nnUNetv2_train is not in this environment"):
        bench.run()
    assert bench.record().state == "failed"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_under_the_study_does_not_end_a_training_that_can_go_on(bench, monkeypatch):
    """Log, progress and record cannot be written; results lie elsewhere."""
    bench.layout.root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", bench.layout.root]).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        filler = bench.layout.root / "filler"
        bench.logged = []
        monkeypatch.setattr("nnunet_mamba.study.sweep.run_job.create_watcher", lambda *given: filled(filler))
        with pytest.raises(OSError, match="No space left"):
            bench.run()
        assert bench.epochs("final") == 5
        filler.unlink()
        monkeypatch.undo()
        monkeypatch.setenv("FAKE_CALLS", str(bench.calls_file))
        assert bench.run().state == "done"  # without another call of the training
        assert len(bench.calls()) == 1
    finally:
        subprocess.run(["umount", bench.layout.root], check=True)


def filled(filler: Path):
    """A watcher that fills the disk when the first line comes."""

    def watch(line: str) -> None:
        if not filler.exists():
            with filler.open("wb", buffering=0) as stream:
                try:
                    while stream.write(b"0" * 1024):
                        pass
                except OSError:
                    return

    return watch


def test_a_refused_runner_leaves_the_other_ones_record_alone(bench):
    bench.run()
    before = bench.layout.record("train-x-0").read_bytes()
    with hold_lock(bench.lock(), print), pytest.raises(LockedError):
        bench.run("f2")
    assert bench.layout.record("train-x-0").read_bytes() == before
    assert (bench.fold / "checkpoint_final.pth").exists()


def test_a_folder_that_was_moved_away_by_hand_is_trained_again(bench):
    bench.run()
    shutil.move(bench.fold, bench.fold.with_name("kept"))
    bench.calls()
    assert bench.run().state == "done"
    assert bench.flags() == [[]]
