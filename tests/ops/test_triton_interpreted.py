"""Runs the kernels' tests under Triton's interpreter, which must be chosen before triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba.ops.backends import is_interpreting

pytest.importorskip("triton")


@pytest.mark.skipif(is_interpreting(), reason="is what this test starts")
def test_the_kernels_are_right_under_the_interpreter():
    here = Path(__file__)
    tests = [str(here.with_name(f"test_{name}.py")) for name in ("triton", "triton_linear_attention")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, "-p", "no:cacheprovider", "--strict-skips"],
        cwd=here.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
