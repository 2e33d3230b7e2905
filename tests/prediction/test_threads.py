import os

import pytest

from nnunet_mamba.prediction.threads import default_threads, physical_cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


def test_hardware_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5})
    for cpu, siblings in {0: "0,4", 1: "1,5", 5: "1,5", 2: "2,6", 3: "3,7"}.items():
        (tmp_path / f"cpu{cpu}").write_text(siblings)
    assert physical_cores(f"{tmp_path}/cpu{{}}") == 4


def test_where_the_system_does_not_tell_each_processor_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert physical_cores(f"{tmp_path}/cpu{{}}") == 3


@pytest.mark.parametrize("told, expected", [("3", 3), ("3,1", 3), ("0", 7), ("", 7)])
def test_openmps_variable_comes_first(monkeypatch, told, expected):
    monkeypatch.setattr("nnunet_mamba.prediction.threads.physical_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert default_threads() == expected
