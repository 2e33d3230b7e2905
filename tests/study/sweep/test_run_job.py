"""A job that goes well, and what is done when some or all of it was done before."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep.existing_results import (
    UnmanagedResultsError,
    remaining_command,
    resume_command,
    validate_command,
)
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import FORMAT
from nnunet_mamba.study.sweep.run_job import JobFailedError, run_job


def test_a_job_done_leaves_a_record_a_stamp_and_a_log_and_no_lock(bench):
    record = bench.run(seed=3)
    assert record == bench.record()
    assert (record.state, record.attempts, record.seed, record.resumed_from) == ("done", 1, 3, None)
    assert record.command == "nnUNetv2_train 900 2d 0 -tr nnUNetTrainerX"
    assert record.products == tuple(map(str, bench.job.products))
    assert {"nnunet_mamba", "commit", "python", "torch", "nnunetv2", "numba"} <= set(record.provenance)
    assert record.progress["epoch"] == record.progress["of"] == 5
    assert bench.stamps() == ["train-x-0.f1"]
    log = bench.layout.log_file("train-x-0").read_text()
    assert "=== train-x-0, attempt 1" in log and "Epoch 4" in log
    assert not bench.lock().exists() and not bench.layout.progress("train-x-0").exists()


def test_a_folder_states_what_it_was_made_for_and_in_which_format(bench):
    bench.run()
    marker = json.loads((bench.fold / "sweep.json").read_text())
    assert marker == {"format": FORMAT, "job": "train-x-0", "cache_key": "f1"}


def test_a_folder_of_another_format_is_unmanaged_and_can_be_adopted(bench):
    bench.run()
    marker = bench.fold / "sweep.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": FORMAT + 1}))
    bench.layout.record("train-x-0").unlink()
    bench.calls()
    with pytest.raises(UnmanagedResultsError):
        bench.run()
    assert bench.run(adopt=True).adopted and bench.calls() == []


def test_a_job_done_is_not_run_again(bench):
    bench.run()
    bench.calls()
    record = bench.run()
    assert bench.calls() == [] and record.attempts == 1


def test_a_lost_stamp_is_given_again_without_a_run(bench):
    bench.run()
    bench.layout.remove_stamps("train-x-0")
    bench.calls()
    bench.run()
    assert bench.calls() == [] and bench.stamps() == ["train-x-0.f1"]


def test_a_lost_validation_is_made_again_without_a_training(bench):
    bench.run()
    (bench.fold / "validation" / "summary.json").write_text('{"foreground_mean"')
    bench.layout.record("train-x-0").unlink()
    (bench.fold / "sweep.json").unlink()
    bench.calls()
    bench.run(adopt=True)
    assert bench.flags() == [["--val"]]


def test_a_job_finished_after_its_runner_was_killed_is_recorded_without_a_run(bench):
    done = bench.run()
    bench.layout.write_record(replace(done, state="running"))
    bench.layout.remove_stamps("train-x-0")
    bench.calls()
    assert bench.run().state == "done"
    assert bench.calls() == [] and bench.stamps() == ["train-x-0.f1"]


def test_changed_settings_set_the_earlier_training_aside_and_take_it_back_when_they_return(bench):
    bench.run("f1")
    bench.run("f2")
    aside = bench.fold.with_name("outdated-f1-fold_0")
    assert (aside / "checkpoint_final.pth").is_file()
    assert bench.record().attempts == 1 and bench.stamps() == ["train-x-0.f2"]
    assert any("kept as" in line for line in bench.logged)
    bench.calls()
    bench.run("f1")
    assert bench.calls() == [] and bench.stamps() == ["train-x-0.f1"]
    assert bench.fold.with_name("outdated-f2-fold_0").is_dir() and not aside.exists()


def test_the_same_name_is_never_set_aside_over_another(bench):
    bench.run("f1")
    bench.run("f2")
    (bench.fold.with_name("outdated-f2-fold_0")).mkdir()
    bench.run("f3")
    assert (bench.fold.with_name("outdated-f2-fold_0.2") / "checkpoint_final.pth").is_file()


def test_a_training_without_a_record_is_refused_and_can_be_adopted(bench):
    bench.run()
    bench.layout.record("train-x-0").unlink()
    (bench.fold / "sweep.json").unlink()
    bench.calls()
    with pytest.raises(UnmanagedResultsError, match=r"no record of how.*\n?.*--adopt"):
        bench.run()
    record = bench.run(adopt=True)
    assert bench.calls() == []
    assert (record.state, record.adopted, record.command) == ("done", True, "")


def test_an_adopted_half_is_resumed(bench, monkeypatch):
    monkeypatch.setenv("FAKE_TROUBLE", "oom@3")
    with pytest.raises(JobFailedError):
        bench.run()
    bench.layout.record("train-x-0").unlink()
    (bench.fold / "sweep.json").unlink()
    bench.calls()
    record = bench.run(adopt=True)
    assert bench.flags() == [["--c"]] and record.adopted
    assert record.resumed_from == "checkpoint_latest.pth"


def test_resuming_does_not_ask_for_pretrained_weights_again():
    command = Command("nnUNetv2_train", ("1", "2d", "0", "-pretrained_weights", "w.pth", "--npz"))
    assert resume_command(command).arguments == ("1", "2d", "0", "--npz", "--c")
    assert validate_command(resume_command(command)).arguments == ("1", "2d", "0", "--npz", "--val")


def test_a_validation_alone_keeps_the_curves_of_weights_and_biases(monkeypatch):
    command = Command("nnUNetv2_train", ("1", "2d", "0"))
    assert validate_command(command).variables == {}
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    assert validate_command(command).variables == {"nnUNet_wandb_enabled": "0"}


def test_progress_is_told_while_it_runs(bench, monkeypatch):
    seen = []
    monkeypatch.setattr("nnunet_mamba.study.sweep.records.WRITE_EVERY_S", 0)
    file = bench.layout.progress("train-x-0")

    def log(line: str) -> None:
        if file.exists():
            seen.append(json.loads(file.read_text()))

    run_job(bench.job, "f1", bench.layout, log=log)
    assert [numbers["epoch"] for numbers in seen][:2] == [1, 2]
    assert seen[0]["dice"] == [0.5, None] and seen[0]["seconds_left"] == 8.0


def test_a_record_that_cannot_be_read_is_refused_in_words(bench):
    bench.layout.record("train-x-0").parent.mkdir(parents=True)
    bench.layout.record("train-x-0").write_text("{")
    with pytest.raises(ValueError, match="is not a record of a job"):
        bench.run()


def test_nothing_is_called_adopted_that_was_made_here(bench):
    record = bench.run(adopt=True)
    assert (record.state, record.adopted) == ("done", False)
    assert bench.flags() == [[]]


def test_the_products_of_other_commands_are_adopted_when_they_are_all_there(bench):
    product = bench.layout.root / "scores.csv"
    product.parent.mkdir()
    product.touch()
    bench.job = Job("score", "evaluate", Command("nnUNetv2_train", ("x",)), products=(product,))
    assert bench.run(adopt=True).adopted
    assert bench.calls() == []


def test_predictions_cut_short_are_dropped_where_the_others_are_kept(bench):
    answers = bench.layout.root / "predictions"
    answers.mkdir(parents=True)
    (answers / "case.nii.gz").write_bytes(b"half")
    command = Command("true", ("--continue_prediction",))
    bench.job = Job("predict", "predict", command, products=(answers,), own_folder=answers)
    assert remaining_command(bench.job, bench.logged.append, adopted=False) == (command, None)
    assert list(answers.iterdir()) == []


def test_a_runner_starts_without_what_takes_long_to_import():
    heavy = "{'torch', 'numpy', 'SimpleITK', 'nnunetv2', 'pandas'}"
    code = f"import sys, nnunet_mamba.study.sweep.run_job; sys.exit(str({heavy} & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stderr in (b"", b"\n")
