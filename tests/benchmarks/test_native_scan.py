"""The benchmark's C++ yardstick computes the same scan, else its times would mean nothing."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from scans import problem

from nnunet_mamba.ops import selective_scan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(sys.platform != "linux", reason="built as on Linux")
def test_the_yardstick_matches_the_reference(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from native import NativeScan, build

    call, library = problem(2, 96, 150, None, 8), build()
    y = selective_scan(**call, delta_softplus=True, backend="reference")
    truths = torch.autograd.grad(y, list(call.values()), torch.ones_like(y))
    for threads in (1, 2):
        native = NativeScan(library, call, threads)
        native.forward()
        native.backward()
        actual = native.gradients() | {"y": native.y.mT}
        for name, truth in {"y": y, **dict(zip(call, truths, strict=True))}.items():
            assert (actual[name] - truth).abs().max() < 1e-5 * truth.abs().max(), name
