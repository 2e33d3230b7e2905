"""The GPU's self-check: asked once, kept, and obeyed by the choice of a backend. Kernels: test_triton.py."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from nnunet_mamba.ops import backends, multi_scan, numba_scan, self_check
from nnunet_mamba.ops.backends import ENVIRONMENT, choose_backend
from nnunet_mamba.ops.self_check import CACHE, FEW, KernelCase, _find_fault, compare, find_kernel_error

WRONG = "scan: dA off by 3.0e-01 of its largest value"


def no_process(command, **_):
    raise OSError("no memory")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The devices that were examined, of a card with the fault `asked.fault`."""
    found = SimpleNamespace(devices=[], fault=None, folder=tmp_path / "cache")

    def examine(device, wide):
        found.devices.append(device)
        return {"differ": [found.fault] if found.fault else [], "fail": []}

    monkeypatch.setenv(CACHE, str(found.folder))
    monkeypatch.setattr(self_check, "_key", lambda device: f"card {device}")
    monkeypatch.setattr(self_check, "_here", examine)
    monkeypatch.setattr(subprocess, "run", no_process)
    _find_fault.cache_clear()
    yield found
    _find_fault.cache_clear()


@pytest.mark.parametrize("fault", [None, WRONG])
def test_a_card_is_examined_once_and_the_verdict_kept_for_the_next_process(asked, fault):
    asked.fault = fault
    assert [find_kernel_error(0), find_kernel_error(0), find_kernel_error(1)] == [fault] * 3
    _find_fault.cache_clear()  # the next process
    assert [find_kernel_error(1), find_kernel_error(0)] == [fault] * 2
    assert asked.devices == [0, 1]


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"fault"', "null"])
def test_a_broken_file_is_examined_anew(asked, content):
    find_kernel_error(0)
    (file,) = (asked.folder / "self_check").iterdir()
    file.write_text(content)
    _find_fault.cache_clear()
    assert find_kernel_error(0) is None
    assert asked.devices == [0, 0]


def test_where_nothing_can_be_written_the_card_is_still_examined(asked, monkeypatch):
    asked.folder.touch()
    assert find_kernel_error(0) is None
    assert asked.devices == [0]


@pytest.fixture
def gpu_with_a_fault(asked, monkeypatch):
    asked.fault = WRONG
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(backends, "_triton_state", lambda: "ok")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    backends._best.cache_clear()
    yield asked
    backends._best.cache_clear()


def test_kernels_that_fail_are_not_chosen_and_one_warning_says_what_differs(gpu_with_a_fault, caplog):
    find_kernel_error(0)
    with caplog.at_level("WARNING", "nnunet_mamba"):
        caplog.clear()
        assert [choose_backend(None, "cuda") for _ in range(3)] == ["torch"] * 3
    assert len(caplog.records) == 1
    assert WRONG in caplog.text
    assert "doctor --gpu" in caplog.text


def test_kernels_that_fail_are_an_error_where_they_are_asked_for(gpu_with_a_fault, monkeypatch):
    with pytest.raises(ValueError, match=r"'triton' was asked for, but its kernels fail .*dA off"):
        choose_backend("triton", "cuda")
    monkeypatch.setenv(ENVIRONMENT, "triton")
    with pytest.raises(ValueError, match="'triton' was asked for"):
        choose_backend(None, "cuda")


def test_kernels_that_are_right_are_chosen(gpu_with_a_fault, caplog):
    gpu_with_a_fault.fault = None
    with caplog.at_level("WARNING", "nnunet_mamba"):
        assert find_kernel_error(0) is None
        assert "Checking the GPU kernels" in caplog.text  # it takes a while
        caplog.clear()
        assert choose_backend(None, "cuda") == choose_backend("triton", "cuda") == "triton"
    assert not caplog.records


ENDED = "their check ended with exit code"
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"
ENDS = {  # of the process -> what differs, what fails, and whether that is kept
    "right": ((0, '{"differ": [], "fail": []}\n', ""), [], [], True),
    "wrong": ((0, 'a library\n{"differ": ["a", "b"], "fail": []}\n', ""), ["a", "b"], [], True),
    "fails": ((0, '{"differ": ["a"], "fail": ["b"]}\n', ""), ["a"], ["b"], True),
    "no memory": (
        (0, '{"differ": [], "fail": ["CUDA out of memory"]}\n', ""),
        [],
        ["CUDA out of memory"],
        False,
    ),
    "killed": ((-11, "", ""), [], [f"{ENDED} -11: without a word"], True),
    "silent": ((0, "", ""), [], [f"{ENDED} 0: without a word"], True),
    "a library's word is last": (
        (0, '{"differ": []}\nbye\n', "Error: x\n"),
        [],
        [f"{ENDED} 0: Error: x"],
        True,
    ),
    "an exception": ((1, "", "Traceback\nError: no\n"), [], [f"{ENDED} 1: Error: no"], True),
    "a card for one process": ((0, f'{{"differ": [], "fail": ["{BUSY}"]}}\n', ""), [WRONG], [], True),
    "a card for one process, at once": ((1, "", BUSY), [WRONG], [], True),
    "no end": (subprocess.TimeoutExpired("", 600), [], ["they did not end within 600 s"], False),
    "no process": (OSError("no memory"), [WRONG], [], True),
}


@pytest.mark.parametrize(("end", "differ", "fail", "kept"), ENDS.values(), ids=ENDS)
def test_verdicts_of_the_process_that_examines(asked, monkeypatch, end, differ, fail, kept):
    def run(command, **_):
        assert command[1:] == ["-m", "nnunet_mamba.ops.self_check", "0", "wide"]
        if isinstance(end, Exception):
            raise end
        return subprocess.CompletedProcess(command, *end)

    asked.fault = WRONG  # as found in this process
    monkeypatch.setattr(subprocess, "run", run)
    assert self_check.run_self_check(0, wide=True) == {"differ": differ, "fail": fail}
    assert self_check.read_cached_result(0) == ({"fault": "; ".join(differ + fail)} if kept else None)


def test_what_agrees_is_no_fault():
    assert compare(torch.device("cpu"), FEW, "numba") == {"differ": [], "fail": []}


def test_what_differs_is_named_with_its_case(monkeypatch):
    right = numba_scan.forward
    monkeypatch.setattr(numba_scan, "forward", lambda *arguments: 1.01 * right(*arguments))
    cases = (
        KernelCase(1, 1, 20, 8),
        KernelCase(1, 1, 20, 8, taps=4),
        KernelCase(1, 1, 20, 8, dtype=torch.float16),
    )
    found = compare(torch.device("cpu"), cases, "numba")
    single, half = found["differ"]
    assert single == (
        "scan with 16 states, 1 direction(s), batch 1, 20 tokens, 8 channels, float32: y off by 1.0e-02 of "
        "the largest value (allowed 1e-04)"
    )
    assert "float16: y off by" in half
    assert found["fail"] == []


def test_what_is_not_a_number_or_cannot_run_is_a_fault(monkeypatch):
    monkeypatch.setattr(multi_scan, "convolve", lambda module, x, *_: torch.full_like(x, torch.nan))
    monkeypatch.setattr(numba_scan, "backward", lambda *_: 1 // 0)
    cases = (KernelCase(1, 1, 20, 8, taps=4), KernelCase(1, 1, 20, 8))
    found = compare(torch.device("cpu"), cases, "numba")
    assert "y off by nan" in found["differ"][0]
    assert found["fail"][0].endswith("ZeroDivisionError: integer division or modulo by zero")


def test_it_draws_no_number_that_others_would_have_drawn():
    before = torch.random.get_rng_state()
    compare(torch.device("cpu"), FEW[:1], "numba")
    assert torch.equal(torch.random.get_rng_state(), before)
