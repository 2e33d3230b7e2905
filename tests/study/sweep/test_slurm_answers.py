"""SLURM's answers: about other jobs, this job's time, and ends that no runner recorded."""

import os
import time
from dataclasses import replace

import pytest
from study.sweep import fake_slurm

from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.run_graph import build_run_graph
from nnunet_mamba.study.sweep.run_job import JobFailedError
from nnunet_mamba.study.sweep.slurm import record_failed_jobs
from nnunet_mamba.study.sweep.status import describe_failures, read_statuses


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A simulated SLURM with job 1, whose state `change` sets."""
    state = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    jobs = fake_slurm.Jobs(state)
    jobs.new({"options": {}})
    return jobs


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:05", 5), ("3:04", 184), ("1:02:03", 3723), ("2-00:00:10", 172810), ("UNLIMITED", None), ("", None)],
)
def test_times_are_read_as_squeue_writes_them(text, seconds):
    assert slurm.parse_time_s(text) == seconds


def test_without_slurm_nothing_is_known(cluster, monkeypatch):
    cluster.change("1", state="TIMEOUT")
    assert slurm.get_end_state("1") == "TIMEOUT"
    monkeypatch.setenv("PATH", "")
    assert slurm.get_end_state("1") == "" and slurm.get_seconds_left() is None


@pytest.fixture
def short(monkeypatch, cluster):
    """Run in job 1, with two seconds more than the margin; options say whether it may be requeued."""
    monkeypatch.setattr(slurm, "MARGIN_S", 3.0)
    monkeypatch.setenv("FAKE_TROUBLE", "wait@2")
    (cluster.folder / "left").write_text("0:05")

    def job(**options):
        cluster.change("1", state="RUNNING", options=options)
        monkeypatch.setenv("SLURM_JOB_ID", "1")

    return job


def test_a_training_near_its_time_limit_is_queued_again_and_goes_on(bench, cluster, short):
    short(**{"--requeue": True})
    with pytest.raises(JobFailedError, match="it goes on in another run"):
        bench.run()
    assert cluster.calls("scontrol") == [["requeue", "1"]] and cluster.asked_end("1") == "REQUEUE"
    assert bench.record().state == "requeued" and not bench.lock().exists()
    assert bench.run().resumed_from == "checkpoint_latest.pth"
    assert bench.flags() == [[], ["--c"]] and bench.record().attempts == 2


def test_where_slurm_does_not_queue_it_again_the_training_counts_as_interrupted(bench, short):
    short()
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert (bench.record().state, bench.record().cause) == ("failed", "interrupted")


def test_a_training_without_a_new_checkpoint_is_left_to_its_time_limit(bench, short, monkeypatch):
    """Guard against queueing it again for ever."""
    short(**{"--requeue": True})
    monkeypatch.setattr(slurm, "MARGIN_S", 10.0)
    with slurm.TimeLimit(bench.job) as limit:
        time.sleep(0.5)
    assert not limit.near


def test_no_job_but_a_training_and_none_outside_of_slurm_has_a_time_limit(bench, short, monkeypatch):
    short(**{"--requeue": True})
    assert slurm.get_seconds_left() == 5
    with slurm.TimeLimit(replace(bench.job, kind="evaluate")) as limit:
        assert limit._timer is None
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm.get_seconds_left() is None


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("TIMEOUT", "SLURM's time limit was reached"),
        ("OUT_OF_MEMORY", "more memory (RAM) than it had asked"),
        ("FAILED", "killed with its runner (SLURM: FAILED)"),
    ],
)
def test_an_end_that_nobody_could_record_is_asked_of_slurm(bench, cluster, state, told):
    record = replace(bench.run(), state="running", slurm_job="1")
    bench.layout.remove_stamps(bench.job.name)
    graph = build_run_graph("small", bench.layout.root, {}, [bench.job], adopt=False)
    bench.layout.write_record(replace(record, cache_key=graph.cache_keys[bench.job.name]))
    cluster.change("1", state="RUNNING")
    record_failed_jobs(graph)
    assert bench.record().state == "running"
    cluster.change("1", state=state)
    record_failed_jobs(graph)
    assert [row.state for row in read_statuses(graph)] == ["failed"] and told in describe_failures(graph)
