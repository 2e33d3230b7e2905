"""Two threads, so that kernels cut their work, also where a worker of pytest-xdist has one."""

import pytest
import torch


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
