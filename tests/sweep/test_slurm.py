"""`--profile slurm` on a simulated SLURM (fake_slurm.py), with commands of Python in place of nnU-Net's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nnunet_mamba.running.command import Command
from nnunet_mamba.sweep import engine
from nnunet_mamba.sweep.frozen import freeze
from nnunet_mamba.sweep.job import Job
from nnunet_mamba.sweep.status import failures, rows
from tests.sweep import fake_slurm

pytest.importorskip("snakemake_executor_plugin_slurm")


def python(name, code, needs=(), **more):
    kind = more.pop("kind", "evaluate")
    return Job(
        name, kind, Command("python", ("-c", code)), needs=tuple(needs), identity={"code": code}, **more
    )


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A simulated SLURM on the path; its jobs."""
    state = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    places = [str(tmp_path / "slurm" / "python"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    jobs = fake_slurm.Jobs(state)
    yield jobs
    for job in jobs.all():
        if job["state"] not in fake_slurm.OVER:
            jobs.end(job["id"], "CANCELLED")


@pytest.fixture
def profile(tmp_path):
    """The one of the package, which need not wait for a shared file system here."""
    shutil.copytree(engine.HERE / "profiles" / "slurm", tmp_path / "profile")
    file = tmp_path / "profile" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    content |= {"latency-wait": 5, "slurm-init-seconds-before-status-checks": 1}
    content["default-resources"] = {"slurm_account": "lab"}
    file.write_text(yaml.safe_dump(content))
    return str(file.parent)


@pytest.fixture
def sweep(tmp_path, profile, cluster):
    """Runs jobs to the end; returns exit code, states by name, what was said, and the graph."""

    def run(*jobs, **variables):
        frozen = freeze("small", tmp_path / "out", variables, jobs, adopt=False)
        frozen.write()
        said = []
        code = engine.run(frozen, cores=2, gpus=[], profile=profile, say=said.append)
        states = {row.job.name: row.state for row in rows(frozen)}
        return code, states, "\n".join(said) + frozen.layout.log("snakemake").read_text(), frozen

    return run


def submissions(cluster):
    """Of each job of the study, the options of each of its submissions."""
    found = {}
    for job in cluster.all():
        found.setdefault(job["options"]["--comment"].removeprefix("rule_"), []).append(job)
    return found


def test_the_profile_runs_a_graph_and_asks_for_what_the_study_says(sweep, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("FROM_THE_SHELL", "1")
    seen = tmp_path / "seen"
    names = ("FROM_THE_SHELL", "OF_THE_GRAPH", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    code = f"import os; open({str(seen)!r}, 'a').write(' '.join(os.environ.get(n, '-') for n in {names!r}))"
    jobs = [
        python("plan", f"open({str(seen)!r}, 'w').write('plan, ')"),
        python("train", code, ["plan"], gpus=2, threads=6, memory_gb=40, hours=3),
    ]
    done, states, said, frozen = sweep(*jobs, OF_THE_GRAPH="2")
    assert (done, set(states.values())) == (0, {"done"}), said
    (plan,), (train,) = submissions(cluster).values()
    assert seen.read_text() == f"plan, 1 2 7 {train['id']}"
    wanted = {"--gpus": "2", "--cpus-per-task": "6", "--mem": "40000", "--time": "180", "--nodes": "1"}
    assert train["options"].items() >= {**wanted, "--requeue": True, "--account": "lab"}.items()
    assert "--gpus" not in plan["options"] and plan["options"]["--cpus-per-task"] == "1"
    record = frozen.layout.read_record("train")
    assert record.slurm_job == train["id"] and record.attempts == 1
