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
from study.sweep import fake_slurm

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep import scheduler
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.run_graph import build_run_graph
from nnunet_mamba.study.sweep.status import describe_failures, read_statuses

pytest.importorskip("snakemake_executor_plugin_slurm")


def python(name, code, needs=(), **more):
    kind = more.pop("kind", "evaluate")
    return Job(
        name, kind, Command("python", ("-c", code)), needs=tuple(needs), cache_inputs={"code": code}, **more
    )


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Put a simulated SLURM on the path; yield its jobs."""
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
    """Write the package's profile, which need not wait for a shared file system here."""
    shutil.copytree(scheduler.HERE / "profiles" / "slurm", tmp_path / "profile")
    file = tmp_path / "profile" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    content |= {"latency-wait": 5, "slurm-init-seconds-before-status-checks": 1}
    content["default-resources"] = {"slurm_account": "lab"}
    file.write_text(yaml.safe_dump(content))
    return str(file.parent)


@pytest.fixture
def sweep(tmp_path, profile, cluster):
    """Return a function that runs jobs to the end: exit code, states by name, the log, and the graph."""

    def run(*jobs, **variables):
        graph = build_run_graph("small", tmp_path / "out", variables, jobs, adopt=False)
        graph.write()
        said = []
        code = scheduler.run_snakemake(graph, cores=2, gpus=[], profile=profile, log=said.append)
        states = {row.job.name: row.state for row in read_statuses(graph)}
        return code, states, "\n".join(said) + graph.layout.log_file("snakemake").read_text(), graph

    return run


def submissions(cluster):
    """Return the options of each submission of each job of the study."""
    found = {}
    for job in cluster.all():
        found.setdefault(job["options"]["--comment"].removeprefix("rule_"), []).append(job)
    return found


@pytest.mark.slow
def test_the_profile_runs_a_graph_and_asks_for_what_the_study_says(sweep, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("FROM_THE_SHELL", "1")
    monkeypatch.setenv("NNUNET_MAMBA_GPUS", "0")
    seen = tmp_path / "seen"
    names = ("FROM_THE_SHELL", "OF_THE_GRAPH", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    code = f"import os; open({str(seen)!r}, 'a').write(' '.join(os.environ.get(n, '-') for n in {names!r}))"
    jobs = [
        python("plan", f"open({str(seen)!r}, 'w').write('plan, ')"),
        python("train", code, ["plan"], gpus=2, threads=6, memory_gb=40, hours=3),
    ]
    done, states, said, graph = sweep(*jobs, OF_THE_GRAPH="2")
    assert (done, set(states.values())) == (0, {"done"}), said
    (plan,), (train,) = submissions(cluster).values()
    assert seen.read_text() == f"plan, 1 2 7 {train['id']}"
    wanted = {"--gpus": "2", "--cpus-per-task": "6", "--mem": "40000", "--time": "180", "--nodes": "1"}
    assert train["options"].items() >= {**wanted, "--requeue": True, "--account": "lab"}.items()
    assert "--gpus" not in plan["options"] and plan["options"]["--cpus-per-task"] == "1"
    record = graph.layout.read_record("train")
    assert record.slurm_job == train["id"] and record.attempts == 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_profile_runs_a_study_in_a_folder_of_any_name(profile, tmp_path, odd):
    """Leave out the characters that are refused."""
    seen, out = tmp_path / "seen", tmp_path / "".join(char for char in odd if char not in '%\\"$`')
    graph = build_run_graph("small", out, {}, [python("a", f"open({str(seen)!r}, 'w')")], adopt=False)
    graph.write()
    code = scheduler.run_snakemake(graph, cores=2, gpus=[], profile=profile, log=print)
    assert (code, [row.state for row in read_statuses(graph)]) == (0, ["done"])
    assert {file.name for file in tmp_path.iterdir()} == {out.name, "profile", "seen", "slurm"}


def ends_as(state, once=None):
    """Return code of a job that SLURM ends in this state, always or until the file `once` exists."""
    return (
        "import os, time; from pathlib import Path; folder = Path(os.environ['FAKE_SLURM']); "
        "end = folder / (os.environ['SLURM_JOB_ID'] + '.end'); "
        f"once = Path({str(once)!r}); known = once.exists(); known or {once is None} or once.touch(); "
        f"known or (end.write_text({state!r}), time.sleep(600))"
    )


def long_training(tmp_path, monkeypatch, cluster):
    """Return a training that waits in its third epoch, ten seconds before our margin to its time limit."""
    fold = tmp_path / "results" / "fold_0"
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_FOLD", str(fold))
    monkeypatch.setenv("FAKE_TROUBLE", "wait@2")
    (cluster.folder / "left").write_text("2:10")
    command = Command("python", (str(Path(__file__).with_name("fake_train.py")),))
    products = (fold / "checkpoint_final.pth",)
    return Job("long", "train", command, products=products, own_folder=fold)


@pytest.mark.slow
def test_each_kind_of_end_is_retried_reported_and_leaves_the_others_running(
    sweep, cluster, tmp_path, monkeypatch
):
    tried = tmp_path / "tried"
    jobs = [
        python("bad", f"open({str(tried)!r}, 'a').write('x'); raise MemoryError('much too large')"),
        python("after", "pass", ["bad"]),
        python("node_lost", ends_as("NODE_FAIL", tmp_path / "once")),
        python("greedy", ends_as("OUT_OF_MEMORY")),
        python("good", "pass"),
        long_training(tmp_path, monkeypatch, cluster),
    ]
    code, states, said, graph = sweep(*jobs)
    assert code == 1
    assert states == {
        "bad": "failed", "after": "waiting", "node_lost": "done", "greedy": "failed", "good": "done",
        "long": "done",
    }, said  # fmt: skip
    assert tried.read_text() == "xx"
    ends = {name: [job["ends"] for job in tries] for name, tries in submissions(cluster).items()}
    assert ends == {
        "bad": [["FAILED"], ["FAILED"]],  # Snakemake tries once more
        "node_lost": [["NODE_FAIL", "COMPLETED"]],  # SLURM does, and Snakemake leaves it to SLURM
        "greedy": [["OUT_OF_MEMORY"], ["OUT_OF_MEMORY"]],
        "good": [["COMPLETED"]],
        "long": [["REQUEUE", "COMPLETED"]],
    }
    text = describe_failures(graph)
    assert "bad failed 2 times: the memory (RAM) was used up" in text
    assert "greedy failed 2 times: it took more memory (RAM) than it had asked SLURM for" in text
    assert "memory_gb" in text


@pytest.mark.slow
def test_a_sweep_that_is_stopped_cancels_its_jobs(cluster, profile, tmp_path):
    out = tmp_path / "out"
    started = [tmp_path / f"started_{i}" for i in range(2)]
    codes = [f"import time; open({str(file)!r}, 'w'); time.sleep(600)" for file in started]
    graph = build_run_graph(
        "small", out, {}, [python(f"job_{i}", code) for i, code in enumerate(codes)], adopt=False
    )
    graph.write()
    program = (
        "import sys; from pathlib import Path; from nnunet_mamba.study.sweep import scheduler\n"
        "from nnunet_mamba.study.sweep.run_graph import read_run_graph\n"
        f"graph = read_run_graph(Path({str(out)!r}))\n"
        f"scheduler.run_snakemake(graph, cores=2, gpus=[], profile={profile!r}, log=print)"
    )
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as in the background of a script
    process = subprocess.Popen([*ignoring, sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    wait_until(lambda: all(file.exists() for file in started))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    wait_until(lambda: all(job["state"] == "CANCELLED" for job in cluster.all()))
    assert not any(fake_slurm.processes(cluster, job["id"]) for job in cluster.all())
    assert len(cluster.all()) == 2 and cluster.calls("scancel")
    assert [row.state for row in read_statuses(graph)] == ["waiting", "waiting"]
    assert graph.layout.read_record("job_0").cause == "interrupted"


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_what_sbatch_refuses_is_said(sweep, profile):
    file = Path(profile) / "config.yaml"
    file.write_text(file.read_text().replace("lab", "nobody"))
    code, states, said, _ = sweep(python("a", "pass"))
    assert (code, states) == (1, {"a": "waiting"})
    assert "Invalid account or account/partition combination" in said.partition("Snakemake failed:")[2]


@pytest.mark.slow
def test_an_emitted_script_runs_a_training_that_is_longer_than_its_time_limit(cluster, tmp_path, monkeypatch):
    done = tmp_path / "done"
    jobs = [
        long_training(tmp_path, monkeypatch, cluster),
        python("scored", f"open({str(done)!r}, 'w')", ["long"]),
        python("hopeless", "raise ValueError"),
        python("after", "pass", ["hopeless"]),
    ]
    graph = build_run_graph("small", tmp_path / "my out", {}, jobs, adopt=False)
    graph.write()
    text = scheduler.emit_slurm(graph, jobs)
    subprocess.run(["bash", "-s", "--", "--qos=long"], input=text, text=True, check=True)
    wait_until(lambda: all(job["state"] in fake_slurm.OVER for job in cluster.all()))
    ends = {job["options"]["--job-name"]: (job["state"], job["ends"]) for job in cluster.all()}
    assert ends == {
        "long": ("COMPLETED", ["REQUEUE", "COMPLETED"]),
        "scored": ("COMPLETED", ["COMPLETED"]),
        "hopeless": ("FAILED", ["FAILED"]),
        "after": ("CANCELLED", []),
    }
    assert done.exists() and graph.layout.read_record("long").attempts == 2
    assert all(job["options"]["--qos"] == "long" for job in cluster.all())
    assert graph.layout.log_file("long").with_suffix(".slurm").is_file()
