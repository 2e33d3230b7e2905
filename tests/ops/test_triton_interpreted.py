"""Runs test_triton.py under Triton's interpreter, which must be chosen before triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba.ops.backends import is_interpreting

pytest.importorskip("triton")


@pytest.mark.skipif(is_interpreting(), reason="is what this test starts")
def test_the_kernels_are_right_under_the_interpreter():
    tests = Path(__file__).with_name("test_triton.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(tests), "-p", "no:cacheprovider", "--strict-skips"],
        cwd=tests.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
