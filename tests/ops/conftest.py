"""Two threads, so that kernels cut their work, also where a worker of pytest-xdist has one; and a faster
interpreter of Triton."""

import pytest
import torch

from nnunet_mamba.ops import self_check
from nnunet_mamba.ops.backends import is_interpreting


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def language_patched_once(monkeypatch):
    """Triton's interpreter looks through its language at every call of a function by a kernel, which takes a
    third of all time; once per module and launch is enough."""
    if not is_interpreting():
        return
    from triton.runtime import interpreter

    from nnunet_mamba.ops.triton_launch import Kernel

    patch, launch, patched = interpreter._patch_lang, Kernel.__call__, set()

    def patch_once(function):
        if function.__module__ in patched:
            return None
        patched.add(function.__module__)
        return patch(function)

    def launch_anew(kernel, grid, values):
        patched.clear()
        launch(kernel, grid, values)

    monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
    monkeypatch.setattr(Kernel, "__call__", launch_anew)


@pytest.fixture
def poisoned_memory():
    """All memory that is not written is NaN, so that nothing may be read before it is written."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def no_self_check(monkeypatch):
    """Kernels run whatever their self-check says."""
    monkeypatch.setattr(self_check, "find_kernel_error", lambda device: None)
