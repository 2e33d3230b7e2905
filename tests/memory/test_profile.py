"""Profiles of devices."""

import json
from dataclasses import asdict, replace
from subprocess import CompletedProcess

import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.memory.measure import measure_profile
from nnunet_mamba.memory.profile import UNMEASURED_CUDA, Profile, load_profile
from nnunet_mamba.memory.simulate import simulate
from nnunet_mamba.memory.time_model import UNITS

PROFILE = Profile("cpu", "a test", "fp32", "numba", {"conv_forward": 1.0}, 10, 2, dict.fromkeys(UNITS, 0.5))
OTHER_UNITS = json.dumps(asdict(replace(PROFILE, seconds={"call": 1.0})))
OTHER_DEVICE = json.dumps(asdict(replace(PROFILE, device="tpu")))


def test_a_profile_is_saved_and_loaded(tmp_path):
    PROFILE.save(tmp_path / "mine.json")
    assert load_profile(str(tmp_path / "mine.json")) == PROFILE


def test_the_earlier_name_of_the_workspace_is_read(tmp_path):
    content = asdict(PROFILE)
    (tmp_path / "mine.json").write_text(json.dumps({**content, "scratch": content.pop("workspace")}))
    assert load_profile(str(tmp_path / "mine.json")) == PROFILE


def test_times_are_amounts_times_rates_by_group():
    times = PROFILE.times({"conv_flop": 4, "conv_byte": 2, "scan_element": 6})
    assert times == {"convolutions": 3.0, "matrix products": 0, "scans": 3.0, "norms and all else": 0}


def test_the_profile_of_the_cpu_is_there_and_complete():
    profile = load_profile("cpu")
    assert set(profile.seconds) == set(UNITS)
    assert set(profile.workspace) == {"conv_forward", "conv_transposed", "conv_backward"}
    assert profile.overhead_bytes > 0


@pytest.mark.parametrize(("name", "ndim"), [("umamba_enc", 3), ("vm_unet", 2)])
def test_all_work_of_networks_takes_time_on_the_cpu(name, ndim):
    planned = {
        "features_per_stage": [4, 8],
        "strides": [[1] * 3, [2] * 3],
        "kernel_sizes": [[3] * 3] * 2,
        "patch_size": [16] * 3,
    }
    sizes = planned if ndim == 3 else {"features_per_stage": [8, 16, 32, 64], "depths": [1] * 4}
    with torch.device("meta"):
        network = create_network(name, input_channels=1, num_classes=2, deep_supervision=True, **sizes)
    step = simulate(network, batch=2, channels=1, classes=2, patch=[32] * ndim)
    seconds = load_profile("cpu").seconds
    assert {"conv_flop", "scan_element", "norm_byte", "call"} <= set(step.work)
    assert [unit for unit, amount in step.work.items() if amount and not seconds[unit]] == []


def test_more_states_take_longer():
    def scans(d_state):
        vss = {"features_per_stage": [8, 16, 32, 64], "depths": [1] * 4, "d_state": d_state}
        with torch.device("meta"):
            network = create_network("vm_unet", input_channels=1, num_classes=2, **vss)
        step = simulate(network, batch=1, channels=1, classes=2, patch=(32, 32))
        return load_profile("cpu").times(step.work)["scans"]

    assert scans(64) > 2 * scans(16)


def test_cuda_without_a_measurement_knows_tensors_alone():
    assert load_profile("cuda") == UNMEASURED_CUDA
    assert not UNMEASURED_CUDA.workspace and not UNMEASURED_CUDA.seconds


def test_an_unknown_profile_says_how_to_measure_one():
    with pytest.raises(ValueError, match=r"Unknown device 'tpu'. Choose one of cpu, cuda. Or measure one"):
        load_profile("tpu")


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "3", "not json", '{"plans_name": "nnUNetPlans"}', OTHER_UNITS, OTHER_DEVICE]
)
def test_another_file_is_no_profile(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a device profile .*; expected a file that"):
        load_profile(str(path))


def test_what_ends_a_measurement_is_said(monkeypatch):
    def fail(*_, **__):
        return CompletedProcess([], 1, "", "Traceback\nValueError: Measured on Linux only (no /proc).\n")

    monkeypatch.setattr("subprocess.run", fail)
    with pytest.raises(ValueError, match=r"Measuring seconds on cpu ended with: Measured on Linux only"):
        measure_profile("cpu")
