"""Small graphs, in Snakemake where it matters, with commands of Python in place of nnU-Net's."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep import scheduler
from nnunet_mamba.study.sweep.existing_results import write_marker
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.preprocessed_data import PreprocessedData
from nnunet_mamba.study.sweep.run_graph import build_run_graph, read_run_graph, remove_stale_stamps
from nnunet_mamba.study.sweep.run_job import JobFailedError
from nnunet_mamba.study.sweep.status import describe_failures, format_statuses, read_statuses

pytest.importorskip("snakemake")


def python(name, code, needs=(), kind="evaluate", **more):
    return Job(
        name, kind, Command("python", ("-c", code)), needs=tuple(needs), cache_inputs={"code": code}, **more
    )


def writes(file, text="x"):
    return f"open({str(file)!r}, 'a').write({text!r})"


@pytest.fixture
def sweep(tmp_path):
    """Return a function that runs jobs to the end: exit code, states by name, the log, and the graph."""

    def run(*jobs, **options):
        graph = build_run_graph("small", tmp_path / "out", {}, jobs, adopt=False)
        remove_stale_stamps(graph)
        graph.write()
        said = []
        code = scheduler.run_snakemake(
            graph, **{"cores": 2, "gpus": [], "profile": None, "log": said.append, **options}
        )
        return code, {row.job.name: row.state for row in read_statuses(graph)}, "\n".join(said), graph

    return run


@pytest.fixture
def run_in_turn(tmp_path):
    """Return a function that runs here what has no stamp, as the Snakefile says, and returns the graph."""

    def run(*jobs):
        graph = build_run_graph("small", tmp_path / "out", {}, jobs, adopt=False)
        remove_stale_stamps(graph)
        for name in graph.jobs:
            if not graph.stamp(name).exists():
                graph.run(name, lambda text: None)
        return graph

    return run


def states(graph):
    return {row.state for row in read_statuses(graph)}


def test_what_is_done_is_not_run_again_and_what_changed_is(sweep, tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    jobs = [python("a@1", writes(a)), python("b", writes(b), ["a@1"]), python("c", writes(c))]
    code, states, said, _ = sweep(*jobs)
    assert (code, set(states.values())) == (0, {"done"}), said
    assert sweep(*jobs)[0] == 0
    assert [file.read_text() for file in (a, b, c)] == ["x"] * 3
    code, states, said, _ = sweep(python("a@1", writes(a, "y")), *jobs[1:])
    assert (code, set(states.values())) == (0, {"done"}), said
    assert [file.read_text() for file in (a, b, c)] == ["xy", "xx", "x"]


def test_a_study_may_lie_in_a_folder_of_any_name(tmp_path, odd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, seen = tmp_path / odd, tmp_path / "seen"
    jobs = [python("a", writes(seen)), python("b", writes(seen, "y"), ["a"], products=(out / "graph.json",))]
    graph = build_run_graph("small", out, {}, jobs, adopt=False)
    graph.write()
    said = []
    code = scheduler.run_snakemake(graph, cores=1, gpus=[], profile=None, log=said.append)
    assert (code, {row.state for row in read_statuses(graph)}) == (0, {"done"}), said
    assert seen.read_text() == "xy" and read_run_graph(out) == graph
    assert {file.name for file in tmp_path.iterdir()} == {odd, "seen"}, "no part of the name was a command"


def test_a_failed_job_is_tried_twice_reported_and_leaves_the_others_running(sweep, tmp_path):
    tried, other = tmp_path / "tried", tmp_path / "other"
    fails = f"{writes(tried)}; raise MemoryError('much too large')"
    jobs = [python("bad", fails), python("after", writes(other), ["bad"]), python("good", writes(other))]
    code, states, _, graph = sweep(*jobs)
    assert code == 1
    assert states == {"bad": "failed", "after": "waiting", "good": "done"}
    assert tried.read_text() == "xx" and other.read_text() == "x"
    text = describe_failures(graph)
    assert "bad failed 2 times: the memory (RAM) was used up" in text
    assert "much too large" in text and "1 jobs did not run because they depend on these" in text
    assert str(graph.layout.log_file("bad")) in text
    code, states, _, _ = sweep(python("bad", writes(tried)), *jobs[1:])
    assert (code, set(states.values())) == (0, {"done"})


def test_a_product_that_vanished_is_made_again(run_in_turn, tmp_path):
    product = tmp_path / "product"
    job = python("a", writes(product), products=(product,))
    run_in_turn(job)
    product.unlink()
    graph = run_in_turn(job)
    assert (states(graph), product.read_text()) == ({"done"}, "x")


def test_two_gpus_run_two_trainings_and_each_sees_its_own(sweep, tmp_path):
    log = tmp_path / "log"
    code = (
        "import os, time; card = os.environ['CUDA_VISIBLE_DEVICES']; "
        f"f = open({str(log)!r}, 'a'); f.write('+' + card + ' '); f.flush(); "
        "time.sleep(1.5); f.write('-' + card + ' ')"
    )
    jobs = [python(f"train_{i}", code, gpus=1) for i in range(4)]
    assert sweep(*jobs, cores=8, gpus=["0", "3"])[0] == 0
    busy, most = set(), 0
    for event in log.read_text().split():
        (busy.add if event[0] == "+" else busy.remove)(
            event[1:]
        )  # a card taken twice could not be removed twice
        most = max(most, len(busy))
    assert most == 2 and set(log.read_text().split()) == {"+0", "-0", "+3", "-3"}


def test_a_job_of_all_processors_goes_before_those_that_follow_it_in_the_study(sweep, tmp_path):
    """As preprocessing for the second plans of a study does before the trainings with the first: there is
    always a training that would fill the processor that became free."""
    log = tmp_path / "log"
    trainings = [python(f"train_{i}", writes(log, f"{i} "), kind="train") for i in range(3)]
    assert sweep(python("preprocess", writes(log, "all "), threads=2), *trainings)[0] == 0
    assert log.read_text().split()[0] == "all"


def test_a_stop_ends_all_commands_and_the_next_run_goes_on(sweep, tmp_path):
    started, out = tmp_path / "started", tmp_path / "out"
    waits = f"import time; {writes(started)}; time.sleep(600)"
    graph = build_run_graph("small", out, {}, [python("long", waits), python("quick", "pass")], adopt=False)
    graph.write()
    program = (
        "import sys; from pathlib import Path; from nnunet_mamba.study.sweep import scheduler\n"
        "from nnunet_mamba.study.sweep.run_graph import read_run_graph\n"
        f"graph = read_run_graph(Path({str(out)!r}))\n"
        f"scheduler.run_snakemake(graph, cores=2, gpus=[], profile=None, log=print)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    running = read_statuses(read_run_graph(out))[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert running.state == "running"
    stopped = read_statuses(graph)[0]
    assert (stopped.state, stopped.detail) == ("waiting", "interrupted")
    assert not [entry for entry in Path("/proc").glob("[0-9]*") if str(started) in command_line(entry)]


def command_line(entry):
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""


def test_a_hand_edited_product_outdates_what_needs_it(run_in_turn, tmp_path):
    plans, trained = tmp_path / "plans.json", tmp_path / "trained"
    make = python("plan", f"open({str(plans)!r}, 'w').write('1')", products=(plans,), watched=(plans,))
    train = python("train", writes(trained), ["plan"])
    run_in_turn(make, train)
    plans.write_text("edited")
    assert states(run_in_turn(make, train)) == {"done"}
    assert plans.read_text() == "edited" and trained.read_text() == "xx"
    run_in_turn(make, train)
    assert trained.read_text() == "xx"


def test_an_edit_stays_noticed_when_another_job_changes(run_in_turn, tmp_path):
    plans, trained = tmp_path / "plans.json", tmp_path / "trained"
    first = python("first", "pass")
    make = python("plan", f"open({str(plans)!r}, 'w').write('1')", products=(plans,), watched=(plans,))
    make = replace(make, after=("first",))
    train = python("train", writes(trained), ["plan"])
    run_in_turn(first, make, train)
    plans.write_text("2")
    edited = run_in_turn(first, make, train)
    again = run_in_turn(python("first", "1"), make, train)
    assert again.cache_keys["train"] == edited.cache_keys["train"]
    assert (plans.read_text(), trained.read_text()) == ("2", "xx")


def test_a_job_whose_sources_changed_runs_again_once(run_in_turn, tmp_path):
    images, predicted = tmp_path / "imagesTs", tmp_path / "predicted"
    images.mkdir()
    (images / "a.nii.gz").write_bytes(b"a")
    job = python("predict", writes(predicted), sources=(images,))
    for n_runs in (1, 1):
        run_in_turn(job)
        assert len(predicted.read_text()) == n_runs
    (images / "b.nii.gz").write_bytes(b"b")
    for n_runs in (2, 2):
        run_in_turn(job)
        assert len(predicted.read_text()) == n_runs


def test_what_another_study_made_anew_is_made_again(run_in_turn, tmp_path):
    fold = tmp_path / "fold_0"
    product = fold / "checkpoint_final.pth"
    job = python("train", f"{writes(product)}", own_folder=fold, products=(product,))
    graph = run_in_turn(job)
    write_marker(job, "of another study")
    remove_stale_stamps(graph)
    assert read_statuses(graph)[0].state == "waiting"
    run_in_turn(job)
    assert (tmp_path / "outdated-of another study-fold_0").is_dir() and product.read_text() == "x"


def test_studies_share_what_they_have_in_common(tmp_path):
    fold = tmp_path / "fold_0"
    product = fold / "checkpoint_final.pth"
    job = python("train", f"import os; os.makedirs({str(fold)!r}, exist_ok=True); {writes(product)}",
                 own_folder=fold, products=(product,))  # fmt: skip
    for study in ("one", "two"):
        graph = build_run_graph(study, tmp_path / study, {}, [job], adopt=False)
        graph.run("train", lambda text: None)
        assert read_statuses(graph)[0].state == "done"
    assert product.read_text() == "xx", "the same folder, not refused and not set aside"


def test_the_reason_for_running_again_is_told(run_in_turn):
    a, b = python("a", "pass"), python("b", "pass", ["a"])
    a = replace(a, cache_inputs={"trainer": '{"settings": {"initial_lr": 0.01}, "seed": 1}'})
    graph = run_in_turn(a, b)
    changed = replace(a, cache_inputs={"trainer": '{"settings": {"initial_lr": 0.001}, "seed": 1}'})
    table = read_statuses(build_run_graph("small", graph.out, {}, [changed, b], adopt=False))
    assert [(row.state, row.detail) for row in table] == [
        ("outdated", "trainer settings.initial_lr: 0.01 -> 0.001"),
        ("outdated", "a is outdated"),
    ]
    assert "outdated  a   trainer settings.initial_lr" in format_statuses(table, every=False)


def test_a_graph_is_read_as_it_was_written(tmp_path):
    data = PreprocessedData(tmp_path / "plans.json", "2d", tmp_path)
    job = python("a", "pass", products=(tmp_path,), watched=(tmp_path,), own_folder=tmp_path / "x", gpus=2)
    job = replace(job, data=data)
    graph = build_run_graph(
        "small", tmp_path, {"A": "1"}, [job, python("b", "pass", ["a"], after=("a",))], adopt=True
    )
    (first, _) = json.loads(graph.write().read_text())["jobs"]
    assert first["cache_key"] == graph.cache_keys["a"] and first["cache_inputs"] == {"code": "pass"}
    assert read_run_graph(tmp_path) == graph
    with pytest.raises(ValueError, match="has no job 'c'"):
        graph.get_job("c")
    with pytest.raises(ValueError, match="expected the folder of a study"):
        read_run_graph(tmp_path / "nowhere")


def test_a_training_does_not_start_on_splits_that_changed_since_the_run_began(tmp_path):
    splits, trained = tmp_path / "splits_final.json", tmp_path / "trained"
    make = python("split", f"open({str(splits)!r}, 'w').write('1')", products=(splits,), watched=(splits,))
    graph = build_run_graph(
        "small", tmp_path / "out", {}, [make, python("train", writes(trained), ["split"])], adopt=False
    )
    graph.run("split", lambda text: None)
    splits.write_text("2")  # by another study
    with pytest.raises(JobFailedError, match=r"splits_final\.json was changed since this run began"):
        graph.run("train", lambda text: None)
    assert read_statuses(graph)[1].state == "failed" and not trained.exists()
    jobs = [make, python("train", writes(trained), ["split"])]
    build_run_graph("small", tmp_path / "out", {}, jobs, adopt=False).run("train", lambda text: None)
    assert trained.exists(), "the next run knows of the edit"


def test_jobs_that_studies_could_do_at_once_wait_for_each_other(tmp_path):
    log, lock = tmp_path / "log", tmp_path / "Dataset.lock"
    code = f"import time; {writes(log, '+')}; time.sleep(0.5); {writes(log, '-')}"
    graphs = [
        build_run_graph(name, tmp_path / name, {}, [python("plan", code, lock=lock)], adopt=False)
        for name in ("one", "two")
    ]
    threads = [threading.Thread(target=graph.run, args=("plan", lambda text: None)) for graph in graphs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert log.read_text() == "+-+-"
