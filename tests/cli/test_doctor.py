"""nnunet-mamba doctor."""

import pytest
import torch

import nnunet_mamba
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
    times = {"triton": [1.234, 5.678], "mamba_ssm": "OutOfMemoryError: too large"}
    found = [
        {"differ": [], "fail": [], "milliseconds": times},
        {"differ": ["scan: dA off"], "fail": ["scan: OutOfMemoryError"]},
    ]
    monkeypatch.setattr(backends, "_triton_state", lambda: "ok")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(self_check, "card", lambda device: "a card")
    monkeypatch.setattr(self_check, "examine", lambda device, wide: found[device])
    assert main(["doctor", "--gpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GPU 0: a card"
    assert lines[1] == (
        f"  ok     {len(self_check.MANY)} scans and convolutions agree with float64, with all gradients"
    )
    assert lines[2].startswith("  ok     triton: 1.23 ms forward, 5.68 ms backward (2 walks, batch 2, ")
    assert lines[3].startswith("  --     mamba_ssm: not timed, OutOfMemoryError: too large (2 walks")
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
    monkeypatch.setattr(self_check, "kept_verdict", lambda device: kept)
    monkeypatch.delenv("NNUNET_MAMBA_BACKEND", raising=False)
    assert doctor.render(list(doctor._backends())).splitlines()[1] == line


def test_gpu_without_a_gpu_is_a_fault(capsys, monkeypatch):
    monkeypatch.setattr(backends, "_triton_state", lambda: "torch finds no NVIDIA GPU here")
    assert main(["doctor", "--gpu"]) == 1
    assert "FAULT  triton: torch finds no NVIDIA GPU here" in capsys.readouterr().out
