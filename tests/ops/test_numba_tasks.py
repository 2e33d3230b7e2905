"""What the numba kernels share: saying that they compile, and asking for huge pages."""

import os
import subprocess
import sys

import pytest
import torch

from nnunet_mamba.ops.huge_pages import use_huge_pages

CALL = """
import torch
from nnunet_mamba.ops import causal_conv1d
print("imported", flush=True)
causal_conv1d(torch.ones(1, 2, 3), torch.ones(2, 4))
"""


def test_the_first_call_says_once_that_it_compiles_and_later_ones_are_silent(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    )
    notices = [line for line in first.stderr.splitlines() if "Compiling the CPU kernels" in line]
    assert len(notices) == 1
    assert f"cached in {tmp_path}" in notices[0]
    assert "Compiling" not in second.stderr
    assert first.stdout == second.stdout == "imported\n"


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_001])
def test_huge_pages_change_nothing_but_speed(size):
    tensor = torch.empty(size)
    assert use_huge_pages(tensor) is tensor
    assert tensor.fill_(2.0).sum() == 2.0 * size
