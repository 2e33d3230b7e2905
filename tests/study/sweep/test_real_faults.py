"""Faults injected into real, tiny nnU-Net trainings: what is lost, and that the end is the same.

All trainings have the same seed, so that one that was interrupted has to end with the very weights of one
that was not: whatever is lost is computed again, and nothing is skipped.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.datasets.phantom import write_phantom_dataset
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import Layout, Record
from nnunet_mamba.study.sweep.run_job import JobFailedError, run_job

pytestmark = pytest.mark.slow

DATASET, TRAINER, N_EPOCHS = "Dataset901_Fragile", "nnUNetTrainerFragile", 6
# $TROUBLE is KIND@EPOCH, and comes in the second of the epoch's two training steps
TRAINERS = """
import os, signal, time
from pathlib import Path
from nnunet_mamba.trainers import nnUNetTrainerControl

def fill(file):
    with open(file, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"0" * 4096)
        except OSError:
            pass

class nnUNetTrainerFragile(nnUNetTrainerControl):
    settings = {"num_epochs": 6, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}

    def train_step(self, batch):
        kind, _, epoch = os.environ.get("TROUBLE", "").partition("@")
        if epoch == str(self.current_epoch) and self._iteration == 1:
            if kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "terminated":
                os.kill(os.getppid(), signal.SIGTERM)
                time.sleep(60)
            if kind == "full":
                fill(os.environ["FILLER"])
        return super().train_step(batch)
"""


class PlannedStudy:
    """One planned dataset, and a training job on it for each folder of results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "ext").mkdir()
        (root / "ext" / "fragile.py").write_text(TRAINERS)
        write_phantom_dataset(root / "raw" / DATASET, n_train=5, n_test=0, seed=0)
        (root / "results").mkdir()

    def variables(self, results: Path) -> dict[str, str]:
        return {
            "nnUNet_raw": str(self.root / "raw"),
            "nnUNet_preprocessed": str(self.root / "preprocessed"),
            "nnUNet_results": str(results),
            "nnUNet_extTrainer": str(self.root / "ext"),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            "NNUNET_MAMBA_SEED": "1",
            "NNUNET_MAMBA_THREADS": "1",
            "NNUNET_MAMBA_SAVE_EVERY": "1",
        }

    def plan(self) -> None:
        """Plan with a network of some thousand parameters."""
        variables = {**self.variables(self.root / "results"), "nnUNet_n_proc_DA": "1"}
        arguments = ("-d", "901", "-c", "2d", "-np", "1", "-npfp", "1")
        command = Command("nnUNetv2_plan_and_preprocess", arguments, variables)
        product = self.root / "preprocessed" / DATASET / "nnUNetPlans.json"
        job = Job("plan", "plan", command, products=(product,))
        run_job(job, "f", Layout(self.root / "plan"), log=lambda line: None)
        plans = json.loads(product.read_text())
        network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        network["features_per_stage"] = [4] * network["n_stages"]
        plans["configurations"]["2d"]["batch_size"] = 2
        product.write_text(json.dumps(plans))

    def training(self, results: Path) -> Job:
        fold = results / DATASET / f"{TRAINER}__nnUNetPlans__2d" / "fold_0"
        arguments = ("901", "2d", "0", "-tr", TRAINER, "-device", "cpu")
        products = (fold / "checkpoint_final.pth", fold / "validation" / "summary.json")
        command = Command("nnUNetv2_train", arguments, self.variables(results))
        return Job("train", "train", command, products=products, own_folder=fold)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> PlannedStudy:
    study = PlannedStudy(tmp_path_factory.mktemp("study"))
    study.plan()
    return study


@pytest.fixture(scope="module")
def uninterrupted(study) -> dict:
    job = study.training(study.root / "results")
    run_job(job, "f", Layout(study.root / "reference"), log=lambda line: None)
    return final_state(job)


def final_state(job: Job) -> dict:
    import torch

    assert job.own_folder is not None
    file = job.own_folder / "checkpoint_final.pth"
    return torch.load(file, map_location="cpu", weights_only=False)


def assert_same_end(job: Job, expected: dict) -> None:
    import torch

    found = final_state(job)
    assert found["current_epoch"] == expected["current_epoch"] == N_EPOCHS
    assert found["logging"]["train_losses"] == expected["logging"]["train_losses"]
    for name, weights in expected["network_weights"].items():
        assert torch.equal(found["network_weights"][name], weights), name


class Trial:
    """A training in folders of its own."""

    def __init__(self, study: PlannedStudy, root: Path) -> None:
        self.job = study.training(root / "results")
        self.layout = Layout(root / "out")

    def run(self) -> Record:
        return run_job(self.job, "f", self.layout, log=lambda line: None)

    def record(self) -> Record:
        record = self.layout.read_record("train")
        assert record is not None
        return record

    def file(self, name: str) -> Path:
        assert self.job.own_folder is not None
        return self.job.own_folder / f"checkpoint_{name}.pth"

    def epochs_begun(self) -> list[int]:
        """Return the epochs of all attempts, in order."""
        lines = self.layout.log_file("train").read_text().splitlines()
        stamped = [line.split(": ", 1)[-1].split() for line in lines]
        return [int(words[1]) for words in stamped if len(words) == 2 and words[0] == "Epoch"]


@pytest.fixture
def trial(study, tmp_path) -> Trial:
    return Trial(study, tmp_path)


def test_killed_within_an_epoch_it_repeats_that_epoch_alone(trial, monkeypatch, uninterrupted):
    monkeypatch.setenv("TROUBLE", "killed@3")
    with pytest.raises(JobFailedError, match="killed by SIGKILL"):
        trial.run()
    monkeypatch.delenv("TROUBLE")
    assert trial.run().resumed_from == "checkpoint_latest.pth"
    assert trial.epochs_begun() == [0, 1, 2, 3, 3, 4, 5]
    assert_same_end(trial.job, uninterrupted)


def test_asked_to_stop_it_repeats_that_epoch_alone(trial, monkeypatch, uninterrupted):
    monkeypatch.setenv("TROUBLE", "terminated@3")
    with pytest.raises(KeyboardInterrupt):
        trial.run()
    assert trial.record().cause == "interrupted" and trial.record().progress["epoch"] == 3
    monkeypatch.delenv("TROUBLE")
    trial.run()
    assert trial.epochs_begun() == [0, 1, 2, 3, 3, 4, 5]
    assert_same_end(trial.job, uninterrupted)


def test_with_the_latest_checkpoint_cut_short_it_repeats_one_epoch_more(trial, monkeypatch, uninterrupted):
    monkeypatch.setenv("TROUBLE", "killed@3")
    with pytest.raises(JobFailedError):
        trial.run()
    monkeypatch.delenv("TROUBLE")
    latest = trial.file("latest")
    latest.write_bytes(latest.read_bytes()[:-1000])
    trial.run()
    assert trial.epochs_begun() == [0, 1, 2, 3, 2, 3, 4, 5]
    assert latest.with_suffix(".incomplete").is_file()
    assert_same_end(trial.job, uninterrupted)


def test_on_a_full_disk_the_checkpoints_of_before_stay_whole(study, tmp_path, monkeypatch, uninterrupted):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk]).returncode
    ):
        pytest.skip("mounting needs root, and is not permitted in every container")
    try:
        trial = Trial(study, disk)
        monkeypatch.setenv("TROUBLE", "full@3")
        monkeypatch.setenv("FILLER", str(disk / "filler"))
        with pytest.raises(JobFailedError, match="the disk is full"):
            trial.run()
        (disk / "filler").unlink()
        monkeypatch.delenv("TROUBLE")
        assert trial.run().resumed_from == "checkpoint_latest.pth"
        assert trial.epochs_begun() == [0, 1, 2, 3, 3, 4, 5]
        assert_same_end(trial.job, uninterrupted)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_training_without_its_validation_is_validated_and_not_trained(trial):
    trial.run()
    (summary,) = trial.job.products[1:]
    expected = json.loads(summary.read_text())["foreground_mean"]
    written_at = trial.file("final").stat().st_mtime_ns
    summary.unlink()
    record = trial.run()
    assert record.command.endswith("--val")
    assert trial.file("final").stat().st_mtime_ns == written_at
    assert trial.epochs_begun() == list(range(N_EPOCHS))
    assert json.loads(summary.read_text())["foreground_mean"] == expected
