"""nnunet-mamba doctor."""

import pytest
import torch

from nnunet_mamba import doctor
from nnunet_mamba.cli import main
from nnunet_mamba.doctor import Finding
from nnunet_mamba.ops import backends, self_check


@pytest.mark.parametrize(("remedy", "code"), [(None, 0), ("pip install x", 1)])
def test_the_exit_code_tells_whether_there_are_faults(capsys, monkeypatch, remedy, code):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("Versions", "x", remedy)])
    assert main(["doctor"]) == code
    assert ("-> pip install x" in capsys.readouterr().out) == bool(code)


def test_gpu_looks_at_the_kernels_on_each_card(capsys, monkeypatch):
    found = {"faults": ["scan: dA off"], "milliseconds": {"triton": [1.234, 5.678]}}
    monkeypatch.setattr(backends, "_triton_state", lambda: "ok")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(self_check, "card", lambda device: "a card")
    monkeypatch.setattr(
        self_check, "examine", lambda device, wide: {**found, "faults": found["faults"] * device}
    )
    assert main(["doctor", "--gpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GPU 0: a card"
    assert lines[1].startswith("  ok     12 scans and convolutions agree with float64")
    assert lines[2].startswith(
        "  ok     triton: 1.23 ms forward, 5.68 ms backward (2 walks, batch 2, 204800 tokens,"
    )
    assert lines[3:5] == ["GPU 1: a card", "  FAULT  scan: dA off"]


def test_gpu_without_a_gpu_is_a_fault(capsys, monkeypatch):
    monkeypatch.setattr(backends, "_triton_state", lambda: "torch finds no NVIDIA GPU here")
    assert main(["doctor", "--gpu"]) == 1
    assert "FAULT  triton: torch finds no NVIDIA GPU here" in capsys.readouterr().out
