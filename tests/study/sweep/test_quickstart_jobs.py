"""The jobs of a quickstart, and its commands as a user would type them."""

import os
import shlex
import sys
from dataclasses import replace

import pytest

from nnunet_mamba.nnunet.commands import Command, find_program, get_dataset_id
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.quickstart import Settings, build_jobs, make_study, shared_variables

SETTINGS = Settings(None, "cpu", "nnUNetTrainerMMUNet_demo", "3d_fullres", n_unseen=8, seed=0)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "my out"


@pytest.fixture
def job(out):
    """Return a function that gives the job of a name, for changes of the settings."""

    def job(name: str, **changes) -> Job:
        settings = replace(SETTINGS, **changes)
        return next(job for job in build_jobs(make_study(settings, out), settings) if job.name == name)

    return job


def test_each_job_needs_the_one_before_and_none_reads_what_no_job_makes(out):
    jobs = build_jobs(make_study(SETTINGS, out), SETTINGS)
    assert [job.name for job in jobs] == ["plan", "train", "predict", "score"]
    assert [set(job.needs) for job in jobs] == [set(), {"plan"}, {"train"}, {"predict"}]
    assert not any(job.sources for job in jobs)
    assert all(product.is_relative_to(out) for job in jobs for product in job.products)


def test_train_command_as_a_user_would_type_it(job, out):
    (out / "nnUNet_raw" / "Dataset004_Hippocampus").mkdir(parents=True)
    assert str(job("train").command) == (
        "nnUNet_n_proc_DA=0 nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerMMUNet_demo -p nnUNetPlans "
        "-device cpu"
    )


def test_a_gpu_gets_workers_that_augment(job):
    train = job("train", device="cuda")
    assert int(train.command.variables["nnUNet_n_proc_DA"]) >= 1
    assert train.gpus == job("predict", device="cuda").gpus == 1


def test_planning_checks_the_dataset_and_never_gets_zero_threads(job):
    command = job("plan").command
    assert command.program == "nnUNetv2_plan_and_preprocess"
    assert command.variables["nnUNet_n_proc_DA"] == "1"
    assert command.arguments[:4] == ("-d", "900", "-c", "3d_fullres")
    assert "--verify_dataset_integrity" in command.arguments


def test_prediction_mirrors_and_resumes(job):
    command = job("predict").command
    assert "--disable_tta" not in command.arguments and not command.variables
    assert "--continue_prediction" in command.arguments
    arguments = [word for word in command.arguments if word != "--continue_prediction"]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given["-i"].endswith("imagesTs") and given["-f"] == "0" and given["-tr"] == SETTINGS.trainer
    assert given["-npp"] == given["-nps"] == "0" and given["-p"] == "nnUNetPlans"


def test_printed_commands_survive_a_shell(job):
    command = job("predict").command
    assert shlex.split(str(command)) == [command.program, *command.arguments]
    assert str(Command("run", ("a b",), {"X": "c d"})) == "X='c d' run 'a b'"


def test_programs_are_those_of_this_python_not_of_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = find_program("nnUNetv2_train")
    assert found.parent.samefile(os.path.dirname(sys.executable))  # noqa: PTH120


def test_a_missing_program_says_how_to_get_it():
    with pytest.raises(ValueError, match=r"nnUNetv2_fly is not in .* -m pip install 'nnunetv2>=2\.8,<2\.9'"):
        find_program("nnUNetv2_fly")


def test_our_trainers_come_after_those_that_the_user_has(out, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/mine")
    mine, ours = shared_variables(out)["nnUNet_extTrainer"].split(os.pathsep)
    assert mine == "/mine"
    assert (ours_files := sorted(os.listdir(ours))) and "nnunet_mamba_trainers.py" in ours_files  # noqa: PTH208
    monkeypatch.setenv("nnUNet_extTrainer", ours)
    assert shared_variables(out)["nnUNet_extTrainer"] == ours


def test_all_paths_are_the_quickstarts_own(out, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/precious")
    variables = shared_variables(out)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert variables[name].startswith(str(out))


def test_dataset_numbers():
    assert get_dataset_id("Dataset004_Hippocampus") == "4"
    assert get_dataset_id("Dataset900_Phantom") == "900"
