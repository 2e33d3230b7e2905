"""`nnunet-mamba sweep` as typed: its output and files, without running anything of nnU-Net's."""

import inspect
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.io.cpu import get_passive_wait_variables
from nnunet_mamba.io.locks import hold_lock
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep import scheduler, start
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import Layout
from nnunet_mamba.study.sweep.run_graph import build_run_graph

FAKE_SBATCH = """#!{python}
import json, subprocess, sys
words = sys.argv[1:]
options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
done = json.load(open({log!r})) if __import__("os").path.exists({log!r}) else []
waits = [w for part in options.get("--dependency", "").split(",") for w in part.split(":")[1:]]
assert all(int(number) <= len(done) for number in waits if number), "waits for a job that was not submitted"
subprocess.run(options["--wrap"], shell=True, check=True, stdout=subprocess.DEVNULL)
json.dump([*done, words], open({log!r}, "w"))
print(len(done) + 1)
"""


@pytest.fixture
def describe(monkeypatch):
    """Let nnU-Net know every trainer but those of Nobody; return a list with an entry for each question."""
    asked = []

    def answer(names, folders):
        asked.append(names)
        known = {"settings": {}, "recipe": "nnU-Net's"}
        of = {
            "Nobody": {"error": "no such class"},
            "MMUnet": {
                "error": "RuntimeError: Could not find requested nnunet trainer nnUNetTrainerMMUnet in"
            },
            "Stock": {"nnunetv2": "2.8.1"},
        }
        return {name: next((d for part, d in of.items() if part in name), known) for name in names}

    monkeypatch.setattr(start, "_ask_nnunet", answer)
    return asked


@pytest.fixture
def sweep(write_study, describe, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets nnU-Net's variables

    def run(*options, **changes):
        code = main(["sweep", str(write_study(**changes)), *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_dry_run_lists_all_jobs_and_writes_no_graph(sweep, tmp_path):
    code, out, _ = sweep("--dry-run")
    assert code == 0 and out.splitlines()[-2:] == [
        "0 of 12 jobs done, 12 waiting",
        f"a run would do 12 of 12 jobs -> {tmp_path / 'out'}",
    ]
    assert "waiting   train.Dataset004_Hippocampus.nnUNetTrainerMMUNet__nnUNetPlans__2d.fold_0" in out
    assert not (tmp_path / "out" / "graph.json").exists()


def test_trainers_are_asked_for_once_and_again_when_a_source_changes(sweep, describe, tmp_path):
    (tmp_path / "mine").mkdir()
    for _ in range(2):
        sweep("--dry-run", trainers_from=["mine"])
    assert len(describe) == 1
    (tmp_path / "mine" / "trainer.py").write_text("")
    sweep("--dry-run", trainers_from=["mine"])
    assert len(describe) == 2


def test_a_missing_trainer_is_refused_before_anything_runs(sweep):
    code, _, err = sweep(methods=["nnUNetTrainerOfNobody"])
    assert code == 2 and "no such class" in err
    code, _, err = sweep("--dry-run", methods=["nnUNetTrainerMMUnet"])
    assert code == 2 and "Did you mean nnUNetTrainerMMUNet?" in err


def test_results_of_unknown_origin_are_refused_before_anything_runs(sweep, tmp_path, monkeypatch):
    model = tmp_path / "nnUNet_results/Dataset004_Hippocampus/nnUNetTrainerMMUNet__nnUNetPlans__2d"
    (model / "fold_1").mkdir(parents=True)
    (model / "fold_1" / "checkpoint_latest.pth").touch()
    ran = []
    parameters = inspect.signature(scheduler.run_snakemake)

    def run(*args, **options):
        ran.append(parameters.bind(*args, **options))
        return 0

    monkeypatch.setattr(scheduler, "run_snakemake", run)
    for options in ([], ["--dry-run"]):
        code, _, err = sweep(*options)
        assert code == 2 and "fold_1" in err and "--adopt" in err and not ran
    code, out, _ = sweep("--dry-run", "--adopt")
    assert code == 0 and "a run would do" in out and not ran
    code, _, _ = sweep("--adopt")
    assert code == 0 and len(ran) == 1


def test_plans_that_somebody_made_are_not_replaced(sweep, tmp_path):
    file = tmp_path / "nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    code, _, err = sweep()
    assert code == 2 and str(file) in err and "own: true" in err and file.read_text() == "{}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["dcie"]}, "Unknown metric 'dcie'. Did you mean dice?"),
        ({"margins": {"dcie": 0.01}}, "Unknown metric 'dcie'. Did you mean dice?"),
        (
            {"metrics": ["dice"], "margins": {"dice": 0.01, "hd95": 1}},
            "margins name hd95, by which nothing is scored; expected some of the metrics: dice.",
        ),
        ({"protocols": ["nobodys"]}, "Unknown protocol 'nobodys'"),
        ({"plans": {"a": {"template": "nothing"}}}, "nothing"),
        ({"baseline": "nobody"}, "nobody"),
        (
            {
                "datasets": {
                    "dataset": "Dataset901_LongRange",
                    "convert": {"name": "longrange"},
                    "split": "7:3",
                }
            },
            "convert longrange has nnU-Net's five folds, not the split 7:3; leave it out.",
        ),
        (
            {"datasets": {"dataset": "Dataset027_ACDC", "convert": {"name": "acdc"}}},
            "convert acdc has 0 sources; expected some for a release, and none for longrange",
        ),
        ({"tolerance_mm": ["abc"]}, "'abc' is not a tolerance; expected 2 or LABEL=2, in mm."),
        ({"tolerance_mm": [".nan"]}, "is not a tolerance"),
        ({"tolerance_mm": [-3]}, "Tolerances are finite and 0 mm or more"),
        ({"tolerance_mm": ["inf"]}, "Tolerances are finite and 0 mm or more"),
        ({"seeds": [1], "methods": ["nnUNetTrainerStock"]}, "nnUNetTrainerStock cannot be seeded"),
    ],
)
def test_names_that_nobody_knows_are_refused_before_anything_runs(sweep, changes, message):
    code, _, err = sweep("--dry-run", **changes)
    assert code == 2 and message in err


def test_a_dry_run_refuses_a_study_that_is_running_and_leaves_its_lock(sweep, tmp_path):
    lock = tmp_path / "out" / "locks" / "study.lock"
    with hold_lock(lock, print, owner="the sweep another"):
        code, _, err = sweep("--dry-run")
        assert code == 2 and "study.lock is held by the sweep another" in err and lock.is_file()
    code, _, _ = sweep("--dry-run")
    assert code == 0 and not lock.exists()


@pytest.mark.parametrize("earlier", [{"jobs": []}, {"format": 1}, {"format": 99}])
def test_a_folder_of_another_format_is_refused_by_name(sweep, tmp_path, capsys, earlier):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "graph.json").write_text(json.dumps(earlier))
    message = f"{tmp_path / 'out'} has the format {earlier.get('format', 1)} of another version"
    code, _, err = sweep()
    assert code == 2 and message in err and "--adopt" in err
    assert main(["sweep", "status", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_jobs_of_another_version_are_refused_by_name(sweep, tmp_path, capsys):
    out = tmp_path / "out"
    file = build_run_graph("s", out, {}, [Job("evaluate.x", "evaluate", Command("true", ()))], False).write()
    file.write_text(file.read_text().replace('"kind": "evaluate"', '"kind": "average"'))
    code, _, err = sweep()
    assert code == 2 and "(average); this one has convert, " in err and "Remove graph.json there" in err
    assert main(["sweep", "status", str(out)]) == 2
    file.unlink()
    assert sweep("--dry-run")[0] == 0


def test_the_folder_of_a_quickstart_is_refused(sweep, tmp_path):
    build_run_graph(
        "quickstart", tmp_path / "out", {}, [Job("train", "train", Command("true", ()))], adopt=False
    ).write()
    code, _, err = sweep()
    assert code == 2 and f"{tmp_path / 'out'} holds a quickstart; choose another `out`." in err


def test_commands_to_be_typed_have_idle_threads_sleep(sweep):
    _, out, _ = sweep("--emit-commands")
    for name, value in get_passive_wait_variables().items():
        assert f"{name}={value}" in out


def test_a_seed_may_be_given_in_place_of_the_studys(sweep):
    _, out, _ = sweep("--dry-run", "--seed", "7")
    assert "nnUNetTrainerMMUNet__nnUNetPlans__2d.seed_7.fold_0" in out


def test_a_study_of_gpus_is_refused_where_there_are_none(sweep, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for options in ([], ["--dry-run"]):
        code, _, err = sweep(*options, device="cuda")
        assert code == 2 and "takes 1 GPU(s), and there are 0 here" in err and "device: cpu" in err


@pytest.mark.parametrize(
    ("visible", "asked", "chosen"),
    [("0,1,2,3", None, "0,1,2,3"), ("0,1,2,3", "2", "0,1"), ("0,1,2,3", "1,3", "1,3"), ("5,7", "1", "5")],
)
def test_gpus_by_number_or_by_count(sweep, monkeypatch, visible, asked, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = []
    monkeypatch.setattr(
        scheduler, "run_snakemake", lambda *args, gpus, **options: seen.append(",".join(gpus)) or 0
    )
    sweep(*(["--gpus", asked] if asked else []), device="cuda")
    assert seen == [chosen]


@pytest.mark.parametrize("text", ["none", "9", "-1"])
def test_gpus_that_are_not_there_are_refused(sweep, monkeypatch, text):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    code, _, err = sweep(f"--gpus={text}", device="cuda")
    assert code == 2 and "--gpus" in err


def test_emitted_commands_are_a_script_of_nnunets_commands(sweep, tmp_path):
    code, out, _ = sweep("--emit-commands")
    assert code == 0
    lines = out.splitlines()
    assert f"export nnUNet_raw={tmp_path}/nnUNet_raw" in lines
    trainings = [line for line in lines if "nnUNetv2_train" in line and not line.startswith("#")]
    assert len(trainings) == 4
    assert trainings[0].endswith("nnUNetv2_train 4 2d 0 -tr nnUNetTrainerMMUNet -p nnUNetPlans -device cpu")
    assert subprocess.run(["bash", "-n"], input=out, text=True).returncode == 0


def test_emitted_commands_take_a_folder_of_any_name_for_one_word(sweep, tmp_path, odd, monkeypatch):
    """Run the script in a shell in which each program writes down its words and nnU-Net's folder."""
    for name in ("release", "tests"):
        (tmp_path / odd / name).mkdir(parents=True)
    dataset = {
        "dataset": "Dataset004_Hippocampus",
        "convert": {"name": "msd", "sources": [f"{odd}/release"]},
        "test": [{"images": f"{odd}/tests"}],
    }
    folders = {name: f"{odd}/{name}" for name in ("raw", "preprocessed", "results")}
    monkeypatch.chdir(tmp_path)
    changes = {"out": f"{odd}/out", "folders": folders, "variables": {"WEIGHTS": odd}, "datasets": [dataset]}
    code, out, err = sweep("--emit-commands", **changes)
    assert code == 0, err
    programs = {
        line.split()[0] for line in out.splitlines() if line.startswith(("nnUNetv2_", "nnunet-mamba"))
    }
    programs |= {"nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_plan_experiment"}
    notes = "".join(
        f'{program}() {{ printf \'%s\\0\' {program} "$@" "$nnUNet_raw" "${{WEIGHTS:-}}" >> words; }}\n'
        for program in sorted(programs)
    )
    subprocess.run(["bash"], input=notes + out, text=True, check=True)
    words = (tmp_path / "words").read_bytes().decode().split("\0")
    assert str(tmp_path / odd / "release") in words and str(tmp_path / odd / "tests") in words
    assert str(tmp_path / odd / "raw") in words and odd in words
    assert words.count("nnUNetv2_train") == 4 and words.count("nnUNetv2_predict") == 2
    assert {file.name for file in tmp_path.iterdir()} == {odd, "small.yaml", "words"}


NAMES = ' first|last |-x|~|a~b|{x}|{{x}}|a #b|#|a: b|it\'s|say "q"|$(x)|`x`|$|50%|a\\b|*?[x]|(x) & y; z|!x|ü'


@pytest.mark.parametrize("name", NAMES.split("|"))
def test_a_study_lies_in_a_folder_of_any_name(sweep, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = sweep("--dry-run", out=f"./{name}")
    assert code == 0 and out.endswith(f" jobs -> {tmp_path / name}\n"), err
    _, out, _ = sweep("--emit-commands", out=f"./{name}")
    words = shlex.split(out, comments=True)
    assert any(Path(word).is_relative_to(tmp_path / name) for word in words)
    assert {file.name for file in tmp_path.iterdir()} == {name, "small.yaml"}


@pytest.mark.parametrize(("option", "chars"), [("--profile=slurm", '%\\"$`'), ("--emit-slurm", "\\")])
def test_a_folder_that_slurm_would_call_otherwise_is_refused(sweep, tmp_path, option, chars):
    for char in chars:
        code, _, err = sweep(option, out=str(tmp_path / f"50{char} done"))
        assert code == 2 and f"holds {char}, which SLURM or its shell takes for something else" in err
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("50")], "nothing was written"


def test_emitted_slurm_jobs_wait_for_what_they_need_and_run(tmp_path, odd, monkeypatch):
    """Use an sbatch that runs each job as it is submitted."""
    out = tmp_path / odd
    monkeypatch.chdir(tmp_path)

    def job(name, *needs, **more):
        code = f"open({str(tmp_path / 'order')!r}, 'a').write({name!r})"
        return Job(name, "evaluate", Command("python", ("-c", code)), needs=needs, **more)

    jobs = [job("a"), job("b", "a", gpus=2, threads=6, memory_gb=40, hours=3), job("c", "a", after=("b",))]
    graph = build_run_graph("small", out, {}, jobs, adopt=False)
    graph.write()
    log, programs = tmp_path / "submitted", tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(FAKE_SBATCH.format(python=sys.executable, log=str(log)))
    (programs / "sbatch").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GPU_JOBS": "-p gpu"}
    command = ["bash", "-s", "--", "-A", "lab"]
    subprocess.run(command, input=scheduler.emit_slurm(graph, jobs), text=True, check=True, env=environment)
    submitted = json.loads(log.read_text())
    assert (tmp_path / "order").read_text() == "abc"
    assert {file.name for file in tmp_path.iterdir()} == {odd, "bin", "order", "submitted"}
    logs = [word for words in submitted for word in words if word.startswith("--output=")]
    escaped = str(out).replace("%", "%%")
    assert logs == [f"--output={escaped}/logs/{name}.slurm" for name in "abc"]
    assert all("-A" in words and "--requeue" in words for words in submitted)
    assert {"--gpus=2", "--cpus-per-task=6", "--mem=40000M", "--time=3:00:00"} <= set(submitted[1])
    assert ["gpu" in words for words in submitted] == [False, True, False]
    assert "--dependency=afterok:1,afterany:2" in submitted[2] and "--kill-on-invalid-dep=yes" in submitted[2]
    assert all(Layout(out).stamp(job.name, graph.cache_keys[job.name]).exists() for job in jobs)


def test_status_of_a_study_that_never_ran_is_refused(sweep, tmp_path, capsys, write_study):
    assert main(["sweep", "status", str(write_study())]) == 2
    assert "expected the folder of a study" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["a.yaml", "b.yaml"], ["status"], ["run", "only_one"], ["average", "t.csv"]]
)
def test_words_that_mean_nothing_are_refused(words, capsys):
    assert main(["sweep", *words]) == 2
    assert capsys.readouterr().err.startswith("nnunet-mamba sweep: ")


@pytest.mark.parametrize("words", [["--all", "status"], ["status", "--all"]])
def test_status_lists_all_jobs_when_asked_to(tmp_path, capsys, words):
    graph = build_run_graph(
        "small", tmp_path / "out", {}, [Job("a", "evaluate", Command("python", ()))], False
    )
    graph.write()
    assert main(["sweep", *words, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "waiting   a\n0 of 1 jobs done, 1 waiting\n"
    assert main(["sweep", "status", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "0 of 1 jobs done, 1 waiting\n"


@pytest.mark.parametrize(
    "words", [["status", "out", "--cores", "2"], ["run", "out", "job", "--all"], ["study.yaml", "--all"]]
)
def test_an_option_that_would_do_nothing_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(["sweep", *words])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_help_of_sweep_names_its_verbs_and_options(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    text = capsys.readouterr().out
    assert "status STUDY.yaml|FOLDER" in text and "--all" in text and "--dry-run" in text
