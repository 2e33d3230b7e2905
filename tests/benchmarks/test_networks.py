"""The benchmark of networks, on sizes that take seconds."""

import importlib
import json
import sys
from argparse import Namespace
from itertools import count
from pathlib import Path

import pytest
import torch

from nnunet_mamba import create_network


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("networks")


def test_a_table_has_the_control_before_and_after(networks, monkeypatch, tmp_path):
    """In this process, whose peak grows by 1 MiB each; test_gpu_run.py has a table of several processes."""
    name, memory = "mm_unet:mixer_output=norm", count()
    monkeypatch.setattr(networks, "memory", lambda device: next(memory) * 2**20)
    monkeypatch.setattr(networks, "in_a_process", networks.measure)
    monkeypatch.setattr(networks, "wait_passively", lambda: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    threads = ["--threads", str(torch.get_num_threads())]
    words = ["--plan", "tiny", "--steps", "1", *threads, "--record", str(tmp_path / "networks")]
    monkeypatch.setattr(sys, "argv", ["networks.py", name, *words])
    networks.main()
    record = json.loads((tmp_path / "networks.json").read_text())
    control, network, again = record["rows"]
    assert [row["network"] for row in record["rows"]] == ["nnunet", name, "nnunet"]
    assert control["ratios"]["step_ms"] + again["ratios"]["step_ms"] == pytest.approx(2)
    sizes = {key: value for key, value in record["plan"]["3d"].items() if key != "batch"}
    expected = create_network("mm_unet", **sizes, mixer_output="norm")
    assert network["multiply_adds"] > control["multiply_adds"] == again["multiply_adds"] > 0
    assert network["parameters"] == sum(p.numel() for p in expected.parameters())
    assert min(network["forward_ms"], network["step_ms"]) > 0 and network["peak_mib"] == 1
    assert (tmp_path / "networks.md").read_text().count("| `nnunet` | 3 |") == 2


def test_a_table_of_counts_has_no_times_and_one_control(networks, monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "wait_passively", lambda: None)
    words = [
        "--plan",
        "tiny",
        "--threads",
        str(torch.get_num_threads()),
        "--record",
        str(tmp_path / "counts"),
    ]
    monkeypatch.setattr(sys, "argv", ["networks.py", "vm_unet", "vm_unet_nossm", "--count", *words])
    networks.main()
    control, network, twin = json.loads((tmp_path / "counts.json").read_text())["rows"]
    assert [row["network"] for row in (control, network, twin)] == ["nnunet", "vm_unet", "vm_unet_nossm"]
    assert network["multiply_adds"] > 2 * twin["multiply_adds"] > 0
    assert network["multiply_adds_per_voxel"] == network["multiply_adds"] / 64**2
    header = next(line for line in (tmp_path / "counts.md").read_text().splitlines() if "| network" in line)
    assert header == "| network | axes | parameters (M) | operations (GMACs) | per voxel (kMACs) |"


def test_words_of_a_name_change_the_config(networks):
    assert networks.parts_of("mm_unet:order=B1@torch") == ("mm_unet", {"order": "B1"}, "torch")
    network, words, backend = networks.parts_of("mm_unet:encoder=plain+ssm:bottleneck=ssm")
    assert (network, words, backend) == ("mm_unet", {"encoder": ("plain", "ssm"), "bottleneck": "ssm"}, "")


def test_a_network_that_cannot_be_measured_says_why(networks):
    tiny = Namespace(plan="tiny", steps=1, threads=1, device="cpu", inference=False, batch=None)
    row = networks.in_a_process("vm_unet", 3, tiny)
    assert "works in 2D" in row["error"]
