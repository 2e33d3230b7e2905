"""GPU slots: one job per GPU, for as long as its command lives."""

import subprocess
import sys

import pytest

from nnunet_mamba.study.sweep import gpus
from nnunet_mamba.study.sweep.gpus import gpu_slots


@pytest.fixture
def offered(monkeypatch):
    monkeypatch.setenv("NNUNET_MAMBA_GPUS", "2, 5")
    monkeypatch.setattr(gpus, "ASK_EVERY_S", 0.02)


def slots(n, folder, said=None):
    return gpu_slots(n, folder, (said if said is not None else []).append)


def test_each_job_gets_a_gpu_of_its_own_and_gives_it_back(tmp_path, offered):
    with slots(1, tmp_path) as one, slots(1, tmp_path) as other:
        assert one.variables == {"CUDA_VISIBLE_DEVICES": "2"}
        assert other.variables == {"CUDA_VISIBLE_DEVICES": "5"}
    with slots(2, tmp_path) as both:
        assert both.variables == {"CUDA_VISIBLE_DEVICES": "2,5"}


def test_a_slot_is_busy_while_the_command_lives_even_without_its_runner(tmp_path, offered):
    with slots(2, tmp_path) as both:
        command = [sys.executable, "-c", "import time; time.sleep(0.5)"]
        child = subprocess.Popen(command, pass_fds=both.descriptors)
    said = []
    with slots(2, tmp_path, said):
        assert child.poll() is not None
    assert said == ["waiting for 2 of the GPUs 2, 5"]


def test_without_an_offer_or_a_need_nothing_is_chosen(tmp_path, offered, monkeypatch):
    with slots(0, tmp_path) as none:
        assert none.variables == {}
    monkeypatch.delenv("NNUNET_MAMBA_GPUS")
    with slots(1, tmp_path) as none:
        assert none.variables == {}


def test_more_gpus_than_offered_are_refused(tmp_path, offered):
    with pytest.raises(ValueError, match="asks for 3 GPUs, but NNUNET_MAMBA_GPUS offers 2, 5"):
        slots(3, tmp_path).__enter__()


def test_the_gpu_is_part_of_the_command_in_the_record(bench, monkeypatch, offered):
    object.__setattr__(bench.job, "gpus", 1)
    assert bench.run().command.startswith("CUDA_VISIBLE_DEVICES=2 nnUNetv2_train")


def test_without_locks_gpus_are_not_shared_out(tmp_path, offered, monkeypatch):
    monkeypatch.setattr(gpus, "HAS_LOCKS", False)
    with slots(2, tmp_path) as both:
        assert both.variables == {"CUDA_VISIBLE_DEVICES": "2,5"}
    with (
        pytest.raises(ValueError, match=r"offers 2, 5, and this system has no locks .* --gpus 1\."),
        slots(1, tmp_path),
    ):
        pass
