"""The cut of a scan on a GPU: measured once, kept, and left alone where results must not change."""

import json

import pytest
import torch

from nnunet_mamba.ops import triton_tuning
from nnunet_mamba.ops.triton_tuning import CANDIDATES, DEFAULT, programs_per_processor


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(triton_tuning.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(triton_tuning, "_chosen", {})


def never(candidate):
    raise AssertionError("measured again")


def test_the_fastest_is_taken_and_kept_for_this_process_and_the_next(monkeypatch):
    times = dict(zip(CANDIDATES, (3.0, 2.0, 1.0), strict=True))
    assert programs_per_processor("a", times.__getitem__) == CANDIDATES[2]
    assert programs_per_processor("a", never) == CANDIDATES[2]
    monkeypatch.setattr(triton_tuning, "_chosen", {})
    assert programs_per_processor("a", never) == CANDIDATES[2]
    assert programs_per_processor("b", lambda candidate: candidate) == CANDIDATES[0]
    assert json.loads(triton_tuning.cache_file().read_text()) == {"a": CANDIDATES[2], "b": CANDIDATES[0]}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 77}', '{"a"'])
def test_a_broken_file_is_measured_anew(content):
    triton_tuning.cache_file().parent.mkdir()
    triton_tuning.cache_file().write_text(content)
    assert programs_per_processor("a", lambda candidate: candidate) == CANDIDATES[0]


def test_where_nothing_can_be_written_it_still_chooses(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(triton_tuning.CACHE, str(tmp_path / "file" / "below"))
    assert programs_per_processor("a", lambda candidate: -candidate) == CANDIDATES[-1]


def test_nothing_is_measured_where_torch_must_be_deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert programs_per_processor("a", never) == DEFAULT
    finally:
        torch.use_deterministic_algorithms(before)
