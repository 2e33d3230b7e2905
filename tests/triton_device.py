"""Device of tests of Triton kernels: a GPU, or the CPU under the interpreter; test_triton.py says how."""

import pytest
import torch

from nnunet_mamba.ops.backends import is_interpreting

USABLE = is_interpreting() or torch.cuda.is_available()
DEVICE = "cpu" if is_interpreting() else "cuda"
MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(not USABLE, reason="needs a CUDA device, or TRITON_INTERPRET=1 before the start"),
    pytest.mark.usefixtures("language_patched_once", "poisoned_memory", "no_self_check"),
]
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="takes too long under the interpreter")
