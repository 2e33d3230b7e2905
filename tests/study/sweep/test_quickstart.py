"""A quickstart with fakes of its commands: which steps run, are skipped, are resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from nnunet_mamba.io.cpu import get_passive_wait_variables
from nnunet_mamba.io.locks import hold_lock
from nnunet_mamba.nnunet import commands, heartbeat
from nnunet_mamba.study.datasets.unseen import N_PHANTOMS
from nnunet_mamba.study.evaluation import compute_foreground_mean, read_table
from nnunet_mamba.study.sweep import quickstart_outcome as outcome
from nnunet_mamba.study.sweep.quickstart import Settings, remove, run_quickstart
from nnunet_mamba.study.sweep.quickstart_outcome import write_outcome
from nnunet_mamba.study.sweep.records import Layout, Record
from nnunet_mamba.study.sweep.run_graph import RunGraph
from nnunet_mamba.study.sweep.run_job import JobFailedError

FAKE = Path(__file__).with_name("fake_nnunet.py")
SETTINGS = Settings(None, "cpu", "nnUNetTrainerMMUNet_demo", "3d_fullres", n_unseen=3, seed=0)
PLAN, TRAIN, PREDICT = "nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"
SCORE = "nnunet-mamba"
PROGRAMS = [PLAN, TRAIN, PREDICT, SCORE]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Return a checkpoint as nnU-Net's, of a network with 7 parameters after one epoch."""
    names = ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice")
    log = {name: [0.5] for name in (*names, "epoch_start_timestamps", "epoch_end_timestamps")}
    file = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pth"
    args = {"plans": {"changed by": "the trainer"}, "dataset_json": {"labels": {"background": 0}}}
    torch.save({"logging": log, "network_weights": {"weight": torch.zeros(7)}, "init_args": args}, file)
    return file


@pytest.fixture
def bench(tmp_path, monkeypatch, checkpoint):
    """Return a bench: run(**changes of the settings), and calls() for commands since the last look."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("FAKE_CALLS", str(calls))
    monkeypatch.setenv("FAKE_CHECKPOINT", str(checkpoint))
    monkeypatch.setattr(commands, "find_program", lambda name: write_fake(tmp_path / "bin", name))
    monkeypatch.setattr("nnunet_mamba.study.datasets.unseen.N_PHANTOMS", 8)
    monkeypatch.setattr(outcome, "write_outcome", lambda *given: ["(no page in this test)"])

    class Bench:
        out = tmp_path / "out"
        said: list[str]

        def run(self, **changes):
            self.said = []
            return run_quickstart(replace(SETTINGS, **changes), self.out, self.said.append)

        def calls(self) -> list[list[str]]:
            lines = calls.read_text().splitlines() if calls.exists() else []
            calls.unlink(missing_ok=True)
            return [json.loads(line) for line in lines]

        def programs(self) -> list[str]:
            return [call[0] for call in self.calls()]

        def record(self, name: str) -> Record:
            return Layout(self.out).read_record(name)

    with mock.patch.dict(os.environ):  # a quickstart sets the variables of its commands
        yield Bench()


@pytest.fixture
def with_page(monkeypatch):
    """Write the pages of this test's benches."""
    monkeypatch.setattr(outcome, "write_outcome", write_outcome)


def write_fake(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    fake, script = folder / FAKE.name, folder / name
    if not fake.exists():
        fake.symlink_to(FAKE)  # so that each test knows its own processes
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake}" {name} "$@"\n')
    script.chmod(0o755)
    return script


def test_the_whole_chain_once_and_then_nothing_but_the_page_again(bench, with_page):
    page = bench.run()
    assert bench.programs() == PROGRAMS
    assert page == bench.out / "report.html" and page.is_file()
    results = json.loads((bench.out / "results.json").read_text())
    assert results["mean_foreground_dice"] == 1  # the fake predicts the truth
    assert len(results["scores"]) == 3 * 3 * 2
    assert results["facts"]["network parameters"] == "7"
    assert (bench.out / "report.png").stat().st_size > 10_000
    next(bench.out.rglob("debug.json")).unlink()  # of which the page tells what there is
    bench.run()
    assert bench.programs() == []
    assert sum("done before" in line for line in bench.said) == 5
    again = json.loads((bench.out / "results.json").read_text())
    assert {*results["facts"]} > {*again["facts"]} > {"trainer", "network parameters"}
    assert again["seconds"] == results["seconds"] and again["commands"] == results["commands"]
    assert [program in line for program, line in zip(PROGRAMS, again["commands"], strict=True)] == [True] * 4


def test_what_is_said(bench, with_page):
    bench.run()
    text = "\n".join(bench.said)
    assert (
        f"$ nnUNet_n_proc_DA=0 {TRAIN} 900 3d_fullres 0 -tr nnUNetTrainerMMUNet_demo -p nnUNetPlans" in text
    )
    assert f"export nnUNet_raw={bench.out / 'nnUNet_raw'}" in text
    assert "epoch 1/1   loss -0.1, validation -0.2   Dice 0.50 nan   2.0 s" in text
    assert "[3/6] train" in text
    assert text.count("export nnUNet_raw") == 1
    for name, value in get_passive_wait_variables().items():  # typed again, the commands are as fast
        assert f"export {name}={value}" in text
    assert str(bench.out / "report.html") in text


def test_a_command_that_says_nothing_is_spoken_for(bench, monkeypatch):
    """Expect a line with its name every few seconds, however long it is silent."""
    monkeypatch.setattr(heartbeat.Heartbeat.__init__, "__defaults__", (0.02,))
    bench.run()
    spoken = [line for line in bench.said if line.startswith("      ... ")]
    assert any(f"{PLAN} is starting" in line for line in spoken)


def test_unseen_cases_are_kept_out_of_training(bench):
    bench.run()
    (raw,) = (bench.out / "nnUNet_raw").iterdir()
    (fold,) = json.loads((raw / "splits_final.json").read_text())
    unseen = {file.name.removesuffix(".nii.gz") for file in (raw / "labelsTs").iterdir()}
    assert len(unseen) == 3 and len(fold["val"]) == 4 and len(fold["train"]) == 4
    assert not unseen & {*fold["train"], *fold["val"]}


def test_a_failing_command_is_told_with_reason_and_log_and_can_be_repeated(bench, monkeypatch):
    monkeypatch.setenv("FAKE_TROUBLE", f"{TRAIN}:fail")
    with pytest.raises(JobFailedError, match=r"train failed: RuntimeError: the disc is full") as failure:
        bench.run()
    log = bench.out / "logs" / "train.log"
    assert f"The whole log: {log}" in str(failure.value)
    assert "the disc is full" in log.read_text()
    assert bench.record("train").state == "failed"
    monkeypatch.delenv("FAKE_TROUBLE")
    bench.calls()
    bench.run()
    assert bench.programs() == [TRAIN, PREDICT, SCORE]


def test_training_goes_on_from_its_checkpoint(bench, monkeypatch):
    monkeypatch.setenv("FAKE_TROUBLE", f"{TRAIN}:later:fail")
    with pytest.raises(JobFailedError):
        bench.run()
    assert "--c" not in bench.calls()[-1]
    monkeypatch.delenv("FAKE_TROUBLE")
    bench.run()
    assert bench.calls()[0][-1] == "--c"
    assert any("resuming from checkpoint_latest.pth" in line for line in bench.said)


def test_a_checkpoint_cut_short_is_put_aside(bench, monkeypatch):
    monkeypatch.setenv("FAKE_TROUBLE", f"{TRAIN}:later:fail")
    with pytest.raises(JobFailedError):
        bench.run()
    (latest,) = bench.out.rglob("checkpoint_latest.pth")
    latest.write_bytes(latest.read_bytes()[:-100])
    monkeypatch.delenv("FAKE_TROUBLE")
    bench.calls()
    bench.run()
    assert "--c" not in bench.calls()[0]
    assert latest.with_suffix(".incomplete").is_file()


def test_predictions_cut_short_are_made_again_and_whole_ones_kept(bench):
    bench.run()
    bench.calls()
    Layout(bench.out).write_record(replace(bench.record("predict"), state="running"))  # killed meanwhile
    whole, broken = sorted((bench.out / "predictions").glob("*.nii.gz"))[:2]
    before = whole.stat().st_mtime_ns
    broken.write_bytes(broken.read_bytes()[:-30])
    bench.run()
    assert bench.programs() == [PREDICT, SCORE]
    assert whole.stat().st_mtime_ns == before
    assert any(f"{broken.name} was not written to its end" in line for line in bench.said)
    assert compute_foreground_mean(read_table(bench.out / "results.csv")) == 1


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("splits_final.json", PROGRAMS),
        ("nnUNetPlans.json", PROGRAMS),
        ("summary.json", [TRAIN, PREDICT, SCORE]),
        ("results.csv", [SCORE]),
    ],
)
def test_a_lost_product_is_made_again_with_all_that_follows(bench, lost, again):
    bench.run()
    bench.calls()
    next(bench.out.rglob(lost)).unlink()
    bench.run()
    assert bench.programs() == again
    assert next(bench.out.rglob(lost)).is_file()
    assert not any("score: done before" in line for line in bench.said)
    bench.run()
    assert bench.programs() == []


def test_a_trained_network_is_kept_and_only_validated_again(bench):
    bench.run()
    (final,) = bench.out.rglob("checkpoint_final.pth")
    trained_at = final.stat().st_mtime_ns
    next(bench.out.rglob("nnUNetPlans.json")).unlink()
    bench.calls()
    bench.run()
    assert bench.calls()[1][-1] == "--val" and final.stat().st_mtime_ns == trained_at


def test_what_follows_a_lost_product_is_made_again_even_if_that_fails_first(bench, monkeypatch):
    bench.run()
    next(bench.out.rglob("nnUNetPlans.json")).unlink()
    monkeypatch.setenv("FAKE_TROUBLE", f"{TRAIN}:fail")
    with pytest.raises(JobFailedError):
        bench.run()
    monkeypatch.delenv("FAKE_TROUBLE")
    bench.calls()
    bench.run()
    assert bench.programs() == [TRAIN, PREDICT, SCORE]


@pytest.fixture
def waiting_run(bench, tmp_path):
    """Return a quickstart in a process of its own, whose training waits after an epoch."""
    program = (
        "from nnunet_mamba.nnunet import commands\n"
        "from nnunet_mamba.study.datasets import unseen\n"
        "from nnunet_mamba.study.sweep.quickstart import run_quickstart\n"
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(FAKE.parent)!r})\n"
        "from test_quickstart import SETTINGS, write_fake\n"
        f"commands.find_program = lambda name: write_fake(Path({str(tmp_path / 'bin')!r}), name)\n"
        "unseen.N_PHANTOMS = 8\n"
        f"run_quickstart(SETTINGS, Path({str(bench.out)!r}), lambda text: print(text, flush=True))\n"
    )
    environment = {**os.environ, "FAKE_TROUBLE": f"{TRAIN}:later:wait"}
    run = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    )
    for line in run.stdout:
        if "epoch 1/1" in line:
            break
    yield run
    for pid in (*find_trainings(tmp_path), *([run.pid] if run.poll() is None else [])):
        os.kill(pid, signal.SIGKILL)


def test_a_kill_stops_the_command_and_the_next_run_resumes(bench, waiting_run, tmp_path):
    """Send SIGTERM to the parent alone; its child must not stay behind."""
    run = waiting_run
    with pytest.raises(ValueError, match=rf"process {run.pid} on .*, for the quickstart"):
        bench.run()
    run.send_signal(signal.SIGTERM)
    rest = run.communicate(timeout=30)[0]
    assert run.returncode != 0
    assert "Interrupted. Run the same command to resume" in rest
    time.sleep(1)
    assert not find_trainings(tmp_path)
    assert bench.record("train").cause == "interrupted"
    bench.calls()
    bench.run()
    assert bench.programs() == [TRAIN, PREDICT, SCORE]


def test_a_command_that_outlives_its_runner_keeps_others_out(bench, waiting_run, tmp_path):
    """Send SIGKILL to the parent, which then cannot stop its child."""
    waiting_run.kill()
    waiting_run.wait()
    (training,) = find_trainings(tmp_path)
    with pytest.raises(ValueError, match=rf"still at work: process {training} on .*, for train "):
        bench.run()
    os.kill(training, signal.SIGKILL)
    while find_trainings(tmp_path):
        time.sleep(0.1)
    bench.calls()
    bench.run()
    assert bench.programs() == [TRAIN, PREDICT, SCORE]


def find_trainings(root: Path) -> list[int]:
    """Return the numbers of the processes that run the fake training below `root`."""
    text = f"{root / 'bin' / FAKE.name} {TRAIN} ".encode()
    files = Path("/proc").glob("[0-9]*/cmdline")
    return [int(file.parent.name) for file in files if text in read(file).replace(b"\0", b" ")]


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it ended in between
        return b""


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"trainer": "nnUNetTrainer"}, "--trainer"),
        ({"n_unseen": 2}, "--cases"),
        ({"data": Path("x")}, "--data"),
    ],
)
def test_another_request_in_the_same_folder_is_refused_before_anything_runs(bench, change, option):
    bench.run()
    bench.calls()
    with pytest.raises(ValueError, match=rf"holds a quickstart with {option} .*choose another --out"):
        bench.run(**change)
    assert bench.programs() == []


def test_another_device_may_go_on(bench):
    bench.run()
    bench.run(device="cuda")


def test_a_folder_of_other_things_is_not_touched(bench):
    bench.out.mkdir()
    (bench.out / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds no quickstart"):
        bench.run()
    assert [file.name for file in bench.out.iterdir()] == ["thesis.tex"]


def test_a_sweep_of_the_same_folder_is_left_alone(bench):
    graph = RunGraph("quickstart", bench.out, {}, {}, {})
    with hold_lock(graph.layout.locks / "study.lock", print, owner="a sweep"):
        with pytest.raises(ValueError, match="held by a sweep"):
            bench.run()
        graph.write()
    with pytest.raises(ValueError, match="holds no quickstart"):
        bench.run()
    assert bench.programs() == []


def test_a_quickstart_of_an_earlier_version_is_refused_by_name(bench):
    bench.out.mkdir()
    (bench.out / "settings.json").write_text(json.dumps(SETTINGS.options()))
    (bench.out / "stages.json").write_text("{}")
    with pytest.raises(ValueError, match="was made by an earlier version; choose another --out"):
        bench.run()
    assert bench.programs() == []


def test_a_configuration_that_was_not_planned(bench):
    with pytest.raises(
        ValueError, match="configuration 3d_lowres does not exist in the plans; they have 2d, 3d_fullres"
    ):
        bench.run(configuration="3d_lowres")


def test_a_folder_that_is_no_dataset_leaves_no_half_of_one(bench, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="is not a dataset"):
        bench.run(data=tmp_path / "photos")
    assert not list(bench.out.rglob("Dataset*"))


def test_a_dataset_of_ones_own(bench, tmp_path):
    from nnunet_mamba.study.datasets.phantom import write_phantom_dataset

    data = write_phantom_dataset(tmp_path / "Dataset123_Mine", n_train=10, n_test=0, seed=5)
    bench.run(data=data)
    assert bench.calls()[1][:3] == [TRAIN, "123", "3d_fullres"]
    (raw,) = (bench.out / "nnUNet_raw").iterdir()
    assert raw.name == "Dataset123_Mine"
    assert len(list((raw / "imagesTs").iterdir())) == 3
    next((raw / "imagesTs").iterdir()).unlink()
    remove(data)
    with pytest.raises(ValueError, match="Dataset123_Mine is not a dataset"):
        bench.run(data=data)
    assert (bench.out / "results.csv").is_file(), "nothing is removed that cannot be made again"


def test_there_are_phantoms_enough_for_training():
    assert N_PHANTOMS >= 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": Path("nowhere")}, "nowhere is not a dataset"),
        (
            {"trainer": "nnUNetTrainerOfNobody"},
            "--trainer nnUNetTrainerOfNobody cannot be used; nnU-Net does not find it. Unknown trainer ",
        ),
    ],
)
def test_what_cannot_run_is_refused_and_claims_nothing(bench, changes, message):
    with pytest.raises(ValueError, match=message):
        bench.run(**changes)
    assert not (bench.out / "graph.json").exists()
    assert bench.programs() == []
    bench.run()  # the folder is free for another request


@pytest.fixture
def without_drawing(monkeypatch, with_page):
    """Collect the content of the pages, and draw nothing."""
    monkeypatch.setattr(
        outcome, "write_study_report", lambda report, out: [(out / "report.html").write_text("")][:0]
    )


def list_losses(out: Path) -> list[Path]:
    """Return every file and folder of a quickstart, of all cases in a folder the first one."""
    kinds = {re.sub(r"phantom_\d+", "CASE", str(path)): path for path in sorted(out.rglob("*"), reverse=True)}
    return [path for path in kinds.values() if path.name != "graph.json"]


def read_end(out: Path) -> tuple[set[str], object]:
    """Return what a complete quickstart leaves for its user: pages, predictions and scores."""
    files = {file.name for file in (*out.glob("re*.*"), *out.glob("predictions/*.gz"))}
    return files, json.loads((out / "results.json").read_text())["scores"]


def test_whatever_a_complete_run_loses_the_next_one_makes_again(bench, without_drawing):
    """Lose one thing after the other; the network is trained again only where it is lost itself."""
    bench.run()
    end, (network,) = read_end(bench.out), bench.out.rglob("checkpoint_final.pth")
    bench.calls()
    for lost in list_losses(bench.out):
        remove(lost)
        bench.run()
        assert read_end(bench.out) == end, lost
        trained = [call for call in bench.calls() if call[0] == TRAIN and call[-1] != "--val"]
        assert bool(trained) == network.is_relative_to(lost), lost


@pytest.mark.slow
def test_whatever_an_interrupted_training_loses_it_ends_complete(bench, without_drawing, monkeypatch):
    """Lose one thing after the other; the training goes on from its checkpoint unless that is lost itself."""
    bench.run()
    end, (network,) = read_end(bench.out), bench.out.rglob("checkpoint_final.pth")
    latest, losses = network.with_name("checkpoint_latest.pth"), None
    while losses is None or losses:
        remove(bench.out / "nnUNet_results")
        monkeypatch.setenv("FAKE_TROUBLE", f"{TRAIN}:later:fail")
        with pytest.raises(JobFailedError):
            bench.run()
        monkeypatch.delenv("FAKE_TROUBLE")
        if losses is None:
            folders = ("jobs", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
            losses = [lost for name in folders for lost in list_losses(bench.out / name)]
        lost = losses.pop()
        remove(lost)
        bench.calls()
        bench.run()
        assert read_end(bench.out) == end, lost
        (training,) = (call for call in bench.calls() if call[0] == TRAIN)
        assert ("--c" in training) != latest.is_relative_to(lost), lost


def test_a_folder_that_lost_its_graph_is_refused_by_name(bench):
    bench.run()
    (bench.out / "graph.json").unlink()
    with pytest.raises(ValueError, match=r"holds no quickstart \(graph\.json\); choose another --out"):
        bench.run()


def test_a_training_without_record_and_marker_is_taken_over(bench):
    bench.run()
    bench.calls()
    (bench.out / "jobs" / "train.json").unlink()
    next(bench.out.rglob("fold_0/sweep.json")).unlink()
    bench.run()
    assert TRAIN not in {call[0] for call in bench.calls() if call[-1] != "--val"}
