"""Each fault of a set-up is found, and carries its fix."""

import os
from pathlib import Path

import nnunetv2.utilities.find_objects
import pytest
import torch

import nnunet_mamba
from nnunet_mamba.cli import doctor, main
from nnunet_mamba.cli.doctor import Finding, examine, render
from nnunet_mamba.io import cpu
from nnunet_mamba.io.resources import resource_dir
from nnunet_mamba.nnunet import version
from nnunet_mamba.ops import backends, self_check

TRAINERS = str(resource_dir("nnUNet_trainers"))


@pytest.fixture
def healthy(nnunet_folders, monkeypatch):
    """A set-up without faults: folders set, trainers through the variable."""
    monkeypatch.setattr(doctor, "is_registered", lambda: False)
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS)
    monkeypatch.delenv("NNUNET_MAMBA_BACKEND", raising=False)
    monkeypatch.setattr(nnunetv2.utilities.find_objects, "recursive_find_trainer_class_by_name", stock_search)


def stock_search(name: str) -> type:
    """In place of nnU-Net's search, which costs seconds: finds ours if the variable names their folder."""
    folders = os.environ.get(doctor.EXTERNAL, "").split(os.pathsep)
    if any(doctor.holds_our_trainers(Path(folder)) for folder in folders):
        return object
    raise RuntimeError(f"Could not find requested nnunet trainer {name}")


def faults() -> list[Finding]:
    return [finding for finding in examine() if finding.fix]


def the_fault() -> Finding:
    """The one fault that there is."""
    (fault,) = faults()
    return fault


def test_a_healthy_set_up_has_no_fault(healthy):
    assert faults() == []
    assert render(examine()).endswith("Healthy.")


def test_each_fault_is_printed_with_its_remedy_under_its_topic():
    findings = [
        Finding("Device", "cpu"),
        Finding("Folders", "X is not set", "export X=FOLDER"),
        Finding("Folders", "Y", absent=True),
    ]
    assert render(findings).splitlines() == [
        "Device",
        "  ok     cpu",
        "Folders",
        "  FAULT  X is not set",
        "         -> export X=FOLDER",
        "  --     Y",
        "",
        "1 fault(s)",
    ]


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_a_variable_that_is_not_set(healthy, monkeypatch, variable):
    monkeypatch.delenv(variable)
    assert the_fault().what == f"{variable} is not set"
    assert f"export {variable}=" in the_fault().fix


def test_a_folder_that_does_not_exist(healthy, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nowhere"))
    assert f"mkdir -p '{tmp_path / 'nowhere'}'" in the_fault().fix


def test_a_tilde_in_a_folder(healthy, monkeypatch):
    monkeypatch.setenv("nnUNet_results", "~/results")
    assert "`~` is not expanded" in the_fault().fix


@pytest.mark.parametrize("found", ["2.7.0", "2.9.1", None])
def test_an_unsupported_nnunet(healthy, monkeypatch, found):
    monkeypatch.setattr(version, "get_nnunet_version", lambda: found)
    wrong, trainers = faults()
    assert f"{found or 'none'} is installed" in wrong.what
    assert wrong.fix == "pip install 'nnunetv2>=2.8.0,<2.9'"
    assert "not looked for" in trainers.what


def test_trainers_that_nothing_shows_to_nnunet(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    assert the_fault().what == "nnU-Net does not find nnUNetTrainerMMUNet"
    assert "nnunet-mamba register" in the_fault().fix


def test_it_says_which_way_the_trainers_are_found(healthy, monkeypatch):
    assert f"nnUNet_extTrainer names {TRAINERS}" in render(examine())
    assert "registered in" not in render(examine())
    monkeypatch.setattr(doctor, "is_registered", lambda: True)
    assert "registered in" in render(examine())


@pytest.mark.parametrize("entry", ["~/trainers", "/no/such/folder"])
def test_an_entry_of_the_variable_that_is_no_folder(healthy, monkeypatch, entry):
    monkeypatch.setenv("nnUNet_extTrainer", entry)
    wrong, not_found = faults()
    assert wrong.what == f"nnUNet_extTrainer names {entry}"
    assert "trainers-path" in wrong.fix
    assert "does not find" in not_found.what


@pytest.mark.parametrize("mistake", ["repository", "package", "site-packages"])
def test_a_folder_whose_every_file_nnunet_would_import_is_not_searched(
    healthy, monkeypatch, tmp_path, mistake
):
    folder = tmp_path / ("nnunet_mamba" if mistake == "package" else mistake)
    folder.mkdir()
    if mistake == "repository":
        (folder / "setup.py").write_text("raise SystemExit('imported')")
    if mistake == "site-packages":
        (folder / "nnunet_mamba").mkdir()

    def searched(name: str) -> type:
        raise AssertionError("nnU-Net's search was run")

    monkeypatch.setattr(nnunetv2.utilities.find_objects, "recursive_find_trainer_class_by_name", searched)
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    assert the_fault().what == f"nnUNet_extTrainer names {folder}"
    assert "trainers-path" in the_fault().fix


def test_other_peoples_trainer_folders_are_no_fault(healthy, monkeypatch, tmp_path):
    (tmp_path / "theirs").mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path / 'theirs'}{os.pathsep}{TRAINERS}")
    assert faults() == []
    assert f"nnUNet_extTrainer names {tmp_path / 'theirs'}" in render(examine())


def test_a_search_that_breaks_is_reported_with_its_error(healthy, monkeypatch):
    def breaks(name: str) -> type:
        raise ModuleNotFoundError("No module named 'theirs'")

    monkeypatch.setattr(nnunetv2.utilities.find_objects, "recursive_find_trainer_class_by_name", breaks)
    assert "ModuleNotFoundError: No module named 'theirs'" in the_fault().what


def test_a_backend_that_every_installation_should_have(healthy, monkeypatch):
    states = {
        "reference": "ok",
        "numba": "numba is not installed",
        "torch": "ok",
        "triton": "needs a CUDA device",
    }
    monkeypatch.setattr(nnunet_mamba, "available_backends", lambda: states)
    assert the_fault().what == "numba: numba is not installed"


def test_a_backend_asked_for_that_cannot_be_used(healthy, monkeypatch):
    states = {"reference": "ok", "numba": "ok", "torch": "ok", "triton": "needs a CUDA device"}
    monkeypatch.setattr(nnunet_mamba, "available_backends", lambda: states)
    monkeypatch.setenv("NNUNET_MAMBA_BACKEND", "triton")
    assert the_fault().what == "NNUNET_MAMBA_BACKEND=triton: needs a CUDA device"
    monkeypatch.setenv("NNUNET_MAMBA_BACKEND", "cuda")
    assert the_fault().what == "NNUNET_MAMBA_BACKEND=cuda: no such backend"
    assert the_fault().fix.endswith("reference, numba, torch")


def test_nnunets_real_search_is_asked(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS)
    assert "nnU-Net finds nnUNetTrainerMMUNet" in [finding.what for finding in examine()]


@pytest.mark.parametrize(
    ("torch", "torchvision", "is_fault"),
    [
        ("2.13.0+cpu", "0.28.0", True),
        ("2.13.0+cpu", "0.28.0+cu130", True),
        ("2.13.0+cpu", "0.28.0+cpu", False),
        ("2.13.0", "0.28.0", False),
        ("2.13.0+cpu", None, False),  # pip will complain, or nnU-Net
    ],
)
def test_a_torch_without_cuda_needs_such_a_torchvision(healthy, monkeypatch, torch, torchvision, is_fault):
    real = doctor.get_installed_version
    found = {"torch": torch, "torchvision": torchvision}
    replacement = lambda name: found[name] if name in found else real(name)  # noqa: E731
    monkeypatch.setattr(doctor, "get_installed_version", replacement)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    assert [fault.what for fault in faults()] == (
        [f"torch {torch} is built without CUDA, torchvision {torchvision} with it, and cannot be loaded"]
        if is_fault
        else []
    )


def test_no_workers_break_planning_and_it_says_so(healthy, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert the_fault().what == "nnUNet_n_proc_DA=0: nnU-Net's planning fails with it, training does not"


def test_a_quota_and_spinning_threads_are_told_but_are_no_faults(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
    for name in cpu.PASSIVE_WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "_set_here", set())
    cpu.wait_passively()  # as every command does, for itself: the user's shell does not know of it
    said = [finding.what for finding in examine() if finding.topic == "Processors"]
    assert "limited by this container to 1.5" in said[0]
    assert "export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0" in said[1]
    monkeypatch.setattr(cpu, "_set_here", set())  # the user has exported it
    assert len([f for f in examine() if f.topic == "Processors"]) == 1
    assert faults() == []


@pytest.mark.parametrize(("fix", "code"), [(None, 0), ("pip install x", 1)])
def test_the_exit_code_tells_whether_there_are_faults(capsys, monkeypatch, fix, code):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("Versions", "x", fix)])
    assert main(["doctor"]) == code
    assert ("-> pip install x" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize("device", ["mps", "cpu"])
def test_the_device_is_told_with_the_option_for_it(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: device == "mps")
    assert doctor._device().what == f"{device} (pass `-device {device}` to nnU-Net's commands)"


def test_gpu_looks_at_the_kernels_on_each_card(capsys, monkeypatch):
    times = {"triton": [1.234, 5.678], "mamba_ssm": "OutOfMemoryError: too large"}
    found = [
        {"differ": [], "fail": [], "milliseconds": times},
        {"differ": ["scan: dA off"], "fail": ["scan: OutOfMemoryError"]},
    ]
    monkeypatch.setattr(backends, "_triton_state", lambda: "ok")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(self_check, "describe_gpu", lambda device: "a card")
    monkeypatch.setattr(self_check, "run_self_check", lambda device, wide: found[device])
    assert main(["doctor", "--gpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GPU 0: a card"
    assert lines[1] == (
        f"  ok     {len(self_check.MANY)} scans and convolutions agree with float64, with all gradients"
    )
    assert lines[2].startswith("  ok     triton: 1.23 ms forward, 5.68 ms backward (2 directions, batch 2, ")
    assert lines[3].startswith("  --     mamba_ssm: not timed, OutOfMemoryError: too large (2 directions")
    assert lines[4:6] == ["GPU 1: a card", "  FAULT  scan: dA off"]
    assert lines[7] == "  FAULT  scan: OutOfMemoryError"


@pytest.mark.parametrize(
    ("kept", "line"),
    [
        (None, "  ok     triton: ok, its kernels not checked yet"),
        ({"fault": ""}, "  ok     triton: ok"),
        ({"fault": "dA off"}, "  FAULT  triton: its kernels fail on this GPU (dA off)"),
    ],
)
def test_the_kept_verdict_on_the_kernels_is_told(monkeypatch, kept, line):
    states = {"triton": "ok"}
    monkeypatch.setattr(nnunet_mamba, "available_backends", lambda: states)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(self_check, "read_cached_result", lambda device: kept)
    monkeypatch.delenv("NNUNET_MAMBA_BACKEND", raising=False)
    assert doctor.render(list(doctor._backends())).splitlines()[1] == line


def test_gpu_without_a_gpu_is_a_fault(capsys, monkeypatch):
    monkeypatch.setattr(backends, "_triton_state", lambda: "torch finds no NVIDIA GPU here")
    assert main(["doctor", "--gpu"]) == 1
    assert "FAULT  triton: torch finds no NVIDIA GPU here" in capsys.readouterr().out
