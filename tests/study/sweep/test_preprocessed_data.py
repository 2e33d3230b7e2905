"""Preprocessed data that plans and studies share: made once, and never changed under a training."""

import json
import sys
import threading
import time
from dataclasses import replace

import pytest

from nnunet_mamba.nnunet import commands
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep.existing_results import is_complete
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.preprocessed_data import PreprocessedData, hold_data
from nnunet_mamba.study.sweep.records import Layout
from nnunet_mamba.study.sweep.run_job import JobFailedError, run_job

PLANS_CHANGED = {"configurations": {"2d": {"data_identifier": "nnUNetPlans_2d", "spacing": [9, 9]}}}
PREPROCESS = """
import shutil, sys
from pathlib import Path
folder, calls = map(Path, sys.argv[1:3])
shutil.rmtree(folder, ignore_errors=True)  # as nnU-Net does
folder.mkdir(parents=True)
with calls.open("a") as stream:
    stream.write("x")
if "fail" in sys.argv:
    sys.exit("ValueError: no")
(folder / "case.b2nd").touch()
"""


class Dataset:
    """A raw dataset, and plans files that share the data of their configuration."""

    def __init__(self, root):
        self.root, self.calls = root, root / "calls"
        self.raw, self.folder = root / "raw", root / "preprocessed" / "nnUNetPlans_2d"
        (self.raw / "imagesTr").mkdir(parents=True)
        (self.raw / "dataset.json").write_text("{}")
        for name in ("nnUNetPlans", "nnUNetResEncUNetMPlans"):
            self.plan(name, patch_size=[len(name)] * 2)

    def plan(self, name, **changes):
        configuration = {"data_identifier": "nnUNetPlans_2d", "spacing": [1, 1], **changes}
        self.root.joinpath("preprocessed").mkdir(exist_ok=True)
        (self.root / "preprocessed" / f"{name}.json").write_text(
            json.dumps({"configurations": {"2d": configuration}})
        )

    def data(self, plans="nnUNetPlans", configuration="2d"):
        return PreprocessedData(self.root / "preprocessed" / f"{plans}.json", configuration, self.raw)

    def job(self, plans="nnUNetPlans", *more, **changes):
        command = Command("python", ("-c", PREPROCESS, str(self.folder), str(self.calls), *more))
        return replace(Job(f"of_{plans}", "preprocess", command, data=self.data(plans)), **changes)

    def run(self, job, key="k", study="study"):
        return run_job(job, key, Layout(self.root / study), log=lambda line: None)

    def run_at_once(self, jobs):
        """Run each job in a study of its own, all at once, with its name for a cache key."""
        threads = [threading.Thread(target=self.run, args=(job, job.name, job.name)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    def n_made(self):
        return len(self.calls.read_text()) if self.calls.exists() else 0


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "find_program", lambda name: sys.executable)
    return Dataset(tmp_path)


def test_plans_and_studies_that_share_their_data_make_them_once(dataset):
    for study in ("one", "two"):
        for plans in ("nnUNetPlans", "nnUNetResEncUNetMPlans"):
            job = dataset.job(plans)
            assert dataset.run(job, f"key of {plans}", study).state == "done"
            assert is_complete(job, f"key of {plans}")
    assert dataset.n_made() == 1


@pytest.mark.parametrize("change", ["spacing", "case", "cleared"])
def test_data_are_made_again_when_they_would_be_others_or_are_gone(dataset, change):
    dataset.run(dataset.job())
    if change == "spacing":
        dataset.plan("nnUNetPlans", spacing=[2, 2])
    elif change == "case":
        (dataset.raw / "imagesTr" / "case_0000.nii.gz").write_bytes(b"12345678")
    else:
        (dataset.folder / "sweep" / "made_from").unlink()
    assert dataset.run(dataset.job(), "another").state == "done"
    assert dataset.n_made() == 2
    assert not is_complete(dataset.job(), "k") and is_complete(dataset.job(), "another")


def test_data_that_somebody_made_by_hand_stand_for_no_job(dataset):
    dataset.run(dataset.job())
    for file in (dataset.folder / "sweep").iterdir():
        file.unlink()
    assert not is_complete(dataset.job(), "k") and not dataset.data().is_current()


def test_an_interrupted_preprocessing_is_no_data(dataset):
    with pytest.raises(JobFailedError):
        dataset.run(dataset.job("nnUNetPlans", "fail"))
    assert dataset.folder.is_dir() and not dataset.data().is_current()
    dataset.run(dataset.job())
    assert dataset.n_made() == 2 and dataset.data().is_current()


def test_a_configuration_that_was_not_planned_is_the_cause(dataset):
    job = replace(dataset.job(), data=dataset.data(configuration="3d_fullres"))
    with pytest.raises(JobFailedError, match="the plans have no such configuration: 3d_fullres"):
        dataset.run(job)
    assert not is_complete(job, "k") and dataset.n_made() == 0


def test_plans_that_do_not_exist_yet_have_no_data(dataset):
    assert not is_complete(replace(dataset.job(), data=dataset.data("later")), "k")


def test_data_are_not_made_anew_while_a_training_reads_them(dataset):
    dataset.run(dataset.job())
    dataset.plan("nnUNetPlans", spacing=[2, 2])
    remade = threading.Thread(target=dataset.run, args=(dataset.job(), "another"))
    first, second = dataset.data(), dataset.data("nnUNetResEncUNetMPlans")
    with hold_data(first, print, owner="one"), hold_data(second, print, owner="two"):
        remade.start()
        time.sleep(1.5)
        assert dataset.n_made() == 1, "two trainings read them"
    remade.join(20)
    assert dataset.n_made() == 2


def test_two_that_share_their_data_make_them_once_even_at_once(dataset):
    jobs = [dataset.job(plans) for plans in ("nnUNetPlans", "nnUNetResEncUNetMPlans")]
    dataset.run_at_once(jobs)
    assert dataset.n_made() == 1 and all(is_complete(job, job.name) for job in jobs)


TRAIN = "import sys; open(sys.argv[1], 'a').write('trained')"


def test_nothing_is_trained_on_data_that_were_made_for_others_since(dataset):
    """Two studies whose plans give different data one folder."""
    train = Job("train", "train", Command("python", ("-c", TRAIN, str(dataset.calls))), data=dataset.data())
    dataset.run(dataset.job())
    assert dataset.run(train).state == "done"
    dataset.plan("nnUNetResEncUNetMPlans", spacing=[2, 2])
    dataset.run(dataset.job("nnUNetResEncUNetMPlans"), "another", "another study")
    with pytest.raises(JobFailedError, match="nnUNetPlans_2d was made from other settings or data since"):
        dataset.run(train, "fold 1")
    assert not is_complete(dataset.job(), "k"), "so the next run makes them again"
    assert dataset.calls.read_text() == "xtrainedx"


def test_plans_that_change_while_data_are_made_leave_no_current_data(dataset):
    changes = f"open({str(dataset.data().plans)!r}, 'w').write({json.dumps(PLANS_CHANGED)!r})"
    command = Command("python", ("-c", f"{PREPROCESS}\n{changes}", str(dataset.folder), str(dataset.calls)))
    dataset.run(dataset.job(command=command))
    assert not dataset.data().is_current()


def test_an_attempt_that_is_killed_before_the_old_data_are_cleared_leaves_no_current_data(dataset):
    dataset.run(dataset.job())
    dataset.plan("nnUNetPlans", spacing=[2, 2])
    with pytest.raises(JobFailedError):
        dataset.run(dataset.job(command=Command("python", ("-c", "raise SystemExit(1)"))), "another")
    dataset.plan("nnUNetPlans")
    assert not dataset.data().is_current() and not is_complete(dataset.job(), "k")


def test_who_finds_the_data_current_does_not_disturb_others_who_do(dataset):
    dataset.run(dataset.job())
    jobs = [replace(dataset.job(), name=f"job_{i}") for i in range(8)]
    dataset.run_at_once(jobs)
    assert dataset.n_made() == 1 and all(is_complete(job, job.name) for job in jobs)


def test_a_job_that_waits_says_for_whom(dataset, monkeypatch):
    monkeypatch.setattr("nnunet_mamba.io.locks.PATIENCE_S", 0.05)
    layout = Layout(dataset.root / "study")
    waiting = threading.Thread(target=dataset.run, args=(dataset.job(),))
    with hold_data(dataset.data(), print, owner="process 1, for train of study A"):
        waiting.start()
        time.sleep(1)
        text = layout.read_progress("of_nnUNetPlans")["text"]
    waiting.join(20)
    assert text.endswith("nnUNetPlans_2d.lock is held by process 1, for train of study A, and perhaps others")
    assert text in layout.log_file("of_nnUNetPlans").read_text()
