"""Profiles of devices."""

import json
from dataclasses import asdict, replace
from subprocess import CompletedProcess

import pytest

from nnunet_mamba.memory.measure import measure_profile
from nnunet_mamba.memory.profile import UNMEASURED_CUDA, Profile, load_profile

PROFILE = Profile("cpu", "a test", "fp32", "numba", {"conv_forward": 1.0}, 10, 2)
OTHER_KEYS = json.dumps({**asdict(PROFILE), "watts": 1.0})
OTHER_DEVICE = json.dumps(asdict(replace(PROFILE, device="tpu")))


def test_a_profile_is_saved_and_loaded(tmp_path):
    PROFILE.save(tmp_path / "mine.json")
    assert load_profile(str(tmp_path / "mine.json")) == PROFILE


def test_the_earlier_name_of_the_workspace_is_read(tmp_path):
    content = asdict(PROFILE)
    (tmp_path / "mine.json").write_text(json.dumps({**content, "scratch": content.pop("workspace")}))
    assert load_profile(str(tmp_path / "mine.json")) == PROFILE


def test_times_of_earlier_versions_are_ignored(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({**asdict(PROFILE), "seconds": {"call": 1.0}}))
    assert load_profile(str(tmp_path / "mine.json")) == PROFILE


def test_the_profile_of_the_cpu_is_there_and_complete():
    profile = load_profile("cpu")
    assert set(profile.workspace) == {"conv_forward", "conv_transposed", "conv_backward"}
    assert profile.overhead_bytes > 0


def test_cuda_without_a_measurement_knows_tensors_alone():
    assert load_profile("cuda") == UNMEASURED_CUDA
    assert not UNMEASURED_CUDA.workspace
    assert UNMEASURED_CUDA.overhead_bytes == UNMEASURED_CUDA.kernel_bytes == 0


def test_an_unknown_profile_says_how_to_measure_one():
    with pytest.raises(ValueError, match=r"Unknown device 'tpu'. Choose one of cpu, cuda. Or measure one"):
        load_profile("tpu")


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "3", "not json", '{"plans_name": "nnUNetPlans"}', OTHER_KEYS, OTHER_DEVICE]
)
def test_another_file_is_no_profile(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a device profile .*; expected a file that"):
        load_profile(str(path))


def test_the_first_run_of_a_measurement_which_may_compile_does_not_count(monkeypatch):
    runs = iter([replace(PROFILE, overhead_bytes=9**9), PROFILE])

    def run(*_, **__):
        return CompletedProcess([], 0, json.dumps(asdict(next(runs))), "")

    monkeypatch.setattr("subprocess.run", run)
    assert measure_profile("cpu") == PROFILE


def test_what_ends_a_measurement_is_said(monkeypatch):
    def fail(*_, **__):
        return CompletedProcess([], 1, "", "Traceback\nValueError: Measured on Linux only (no /proc).\n")

    monkeypatch.setattr("subprocess.run", fail)
    with pytest.raises(ValueError, match=r"Measuring cpu ended with: Measured on Linux only"):
        measure_profile("cpu")
