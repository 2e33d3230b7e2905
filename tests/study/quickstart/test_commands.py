import os
import shlex
import sys
from dataclasses import replace

import pytest

from nnunet_mamba.nnunet.commands import Command, find_program, get_dataset_id
from nnunet_mamba.study.quickstart.commands import (
    plan_command,
    predict_command,
    shared_variables,
    train_command,
)
from nnunet_mamba.study.quickstart.workspace import Settings, Workspace

SETTINGS = Settings(None, "cpu", "nnUNetTrainerMMUNet_demo", "3d_fullres", n_unseen=8, seed=0)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "my out")


def test_train_command_as_a_user_would_type_it():
    command = train_command("Dataset004_Hippocampus", SETTINGS, resume=False)
    assert str(command) == (
        "nnUNet_n_proc_DA=0 nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerMMUNet_demo -device cpu"
    )
    assert train_command("Dataset004_Hippocampus", SETTINGS, resume=True).arguments[-1] == "--c"


def test_a_gpu_gets_workers_that_augment():
    command = train_command("Dataset004_Hippocampus", replace(SETTINGS, device="cuda"), resume=False)
    assert int(command.variables["nnUNet_n_proc_DA"]) >= 1


def test_planning_checks_the_dataset_and_never_gets_zero_threads():
    command = plan_command("Dataset900_Phantom", SETTINGS)
    assert command.variables["nnUNet_n_proc_DA"] == "1"
    assert command.arguments[:4] == ("-d", "900", "-c", "3d_fullres")
    assert "--verify_dataset_integrity" in command.arguments


def test_prediction_mirrors_and_resumes(workspace):
    arguments = predict_command("Dataset900_Phantom", SETTINGS, workspace).arguments
    assert "--disable_tta" not in arguments
    assert "--continue_prediction" in arguments
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    assert given["-i"].endswith("imagesTs") and given["-f"] == "0" and given["-tr"] == SETTINGS.trainer
    assert given["-npp"] == given["-nps"] == "0"


def test_printed_commands_survive_a_shell(workspace):
    command = predict_command("Dataset900_Phantom", SETTINGS, workspace)
    assert shlex.split(str(command)) == [command.program, *command.arguments]
    assert str(Command("run", ("a b",), {"X": "c d"})) == "X='c d' run 'a b'"


def test_programs_are_those_of_this_python_not_of_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = find_program("nnUNetv2_train")
    assert found.parent.samefile(os.path.dirname(sys.executable))  # noqa: PTH120


def test_a_missing_program_says_how_to_get_it():
    with pytest.raises(ValueError, match=r"nnUNetv2_fly is not in .* -m pip install 'nnunetv2>=2\.8,<2\.9'"):
        find_program("nnUNetv2_fly")


def test_our_trainers_come_after_those_that_the_user_has(workspace, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/mine")
    mine, ours = shared_variables(workspace)["nnUNet_extTrainer"].split(os.pathsep)
    assert mine == "/mine"
    assert (ours_files := sorted(os.listdir(ours))) and "nnunet_mamba_trainers.py" in ours_files  # noqa: PTH208
    monkeypatch.setenv("nnUNet_extTrainer", ours)
    assert shared_variables(workspace)["nnUNet_extTrainer"] == ours


def test_all_paths_are_the_quickstarts_own(workspace, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/precious")
    variables = shared_variables(workspace)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert variables[name].startswith(str(workspace.out))


def test_dataset_numbers():
    assert get_dataset_id("Dataset004_Hippocampus") == "4"
    assert get_dataset_id("Dataset900_Phantom") == "900"
