"""Choosing a backend, and running where nnU-Net runs: forked children, spawned workers, several threads."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nnunet_mamba.ops import available_backends, backends, selective_scan
from nnunet_mamba.ops.backends import ENVIRONMENT, choose_backend


def scan_sum(backend: str | None = None) -> float:
    """A scan large enough to use two threads; the same number wherever it runs."""
    torch.set_num_threads(2)
    random = torch.Generator().manual_seed(0)
    u, z, B = (torch.randn(2, channels, 100, generator=random) for channels in (128, 128, 4))
    A = -torch.rand(128, 4, generator=random)
    return float(selective_scan(u, u.abs(), A, B, B, z=z, backend=backend).double().sum())


def send_scan_sum(pipe) -> None:
    pipe.send(scan_sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_runs_in_child_processes_after_the_parent_has_used_its_threads(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not offered by this system")
    expected = scan_sum()
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=send_scan_sum, args=(there,))
    child.start()
    try:
        assert here.poll(120), "the child hangs"
        assert here.recv() == expected
    finally:
        child.kill()
        child.join()


def test_several_threads_may_call_at_once():
    expected = scan_sum()
    with ThreadPoolExecutor(4) as pool:
        assert [future.result() for future in [pool.submit(scan_sum) for _ in range(12)]] == [expected] * 12


def test_argument_beats_environment_beats_default(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert choose_backend(None, "cpu") == "numba"
    assert choose_backend(None, "cuda") == "torch"
    monkeypatch.setenv(ENVIRONMENT, "torch")
    assert choose_backend(None, "cpu") == "torch"
    assert choose_backend("reference", "cpu") == "reference"


def test_a_backend_asked_for_and_missing_says_why(monkeypatch):
    for name, state in available_backends().items():
        if state != "ok":
            with pytest.raises(ValueError, match=f"Backend '{name}' was asked for, but"):
                choose_backend(name, "cpu")
    monkeypatch.setenv(ENVIRONMENT, "fastest")
    with pytest.raises(ValueError, match="Unknown backend 'fastest'"):
        scan_sum()
    with pytest.raises(ValueError, match="runs on cpu, but the tensors are on cuda"):
        choose_backend("numba", "cuda")


def test_without_numba_the_cpu_falls_back_to_torch_and_says_so(monkeypatch, caplog):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(backends, "_numba_state", lambda: "numba is not installed; run: pip install numba")
    backends._best.cache_clear()
    try:
        with caplog.at_level("WARNING", "nnunet_mamba"):
            assert [choose_backend(None, "cpu") for _ in range(3)] == ["torch"] * 3
        assert len(caplog.records) == 1
        assert "numba is not installed" in caplog.text
    finally:
        backends._best.cache_clear()


def test_an_assumed_backend_gives_shapes_where_it_cannot_run():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with backends.force_backend("triton"), FakeTensorMode():
        u, B = torch.empty(2, 8, 50), torch.empty(2, 4, 50)
        assert selective_scan(u, u, torch.empty(8, 4), B, B).shape == (2, 8, 50)
    with backends.force_backend(None):
        assert choose_backend("reference", "cpu") == "reference"
