"""From a network's name to its prediction; and the prediction against a measurement."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_mamba.memory.estimate import estimate_memory
from nnunet_mamba.memory.profile import UNMEASURED_CUDA, load_profile

SIZES = {
    "input_channels": 1,
    "num_classes": 2,
    "features_per_stage": [4, 8],
    "strides": [[1, 1], [2, 2]],
    "kernel_sizes": [[3, 3]] * 2,
    "patch_size": (16, 16),
}
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "estimate.py"
PARTS = [
    "weights, gradients, momentum",
    "activations kept for backward",
    "batch and loss",
    "passing through at the peak",
    "workspace of operators",
    "code and process",
]


def test_memory_comes_in_parts_that_add_up():
    result = estimate_memory("mm_unet", SIZES, batch=2, profile=load_profile("cpu"))
    assert list(result.parts) == PARTS
    assert min(result.parts.values()) > 0
    assert result.peak_bytes == sum(result.parts.values())


def test_the_precision_is_the_profiles_unless_another_is_asked_for():
    default, single, half = (
        estimate_memory("nnunet", SIZES, batch=2, profile=load_profile("cpu"), precision=precision)
        for precision in (None, "fp32", "fp16")
    )
    assert default == single
    assert half.parts["activations kept for backward"] < single.parts["activations kept for backward"]


def test_an_unmeasured_device_counts_tensors_alone():
    result = estimate_memory("mm_unet", SIZES, batch=2, profile=UNMEASURED_CUDA)
    assert result.parts["workspace of operators"] == 0
    assert result.parts["code and process"] == 0


def test_the_process_takes_its_overhead_and_the_code_of_every_convolution():
    profile = load_profile("cpu")
    small, large = (
        estimate_memory(
            "nnunet", SIZES, batch=2, profile=replace(profile, overhead_bytes=0, kernel_bytes=size)
        )
        for size in (1, 2)
    )
    n_kernels = small.parts["code and process"]
    assert large.parts["code and process"] == 2 * n_kernels
    assert n_kernels >= 2 * 4  # forward and backward, the two stages of two convolutions at least


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is measured on Linux")
def test_predicted_memory_is_within_15_percent_of_the_measured(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1])}  # this checkout, not one installed
    command = [sys.executable, BENCHMARK, "mm_unet", "--record", tmp_path / "estimate"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    rows = json.loads((tmp_path / "estimate.json").read_text())["rows"]
    assert [row["checkpoint_stages"] for row in rows] == [0, 1, "all"]
    for row in rows:
        assert row["predicted_mib"] == pytest.approx(row["measured_mib"], rel=0.15)
