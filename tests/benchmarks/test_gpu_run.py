"""benchmarks/gpu/run.py: its dry run, and what it does with stages that fail, are late or cannot run."""

import ast
import importlib
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(GPU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    return importlib.import_module("run")


def results(folder: Path) -> dict[str, str]:
    with tarfile.open(folder / "results.tar.gz") as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {Path(m.name).name: archive.extractfile(m).read().decode() for m in members}


@pytest.mark.slow
def test_the_dry_run_tries_the_commands_on_the_cpu(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--dry", "--out", str(tmp_path / "out")])
    assert run.main() == 0, capsys.readouterr().out
    found = results(tmp_path / "out")
    measured = json.loads(found["kernels.json"])
    assert {row["what"] for row in measured} == {"scan", "convolution", "attention", "mamba2", "mamba2_layer"}
    assert [row for row in measured if "error" in row] == []
    assert "test_scan_equals_the_reference" in found["correct.txt"]
    assert {"scan.md", "networks.md", "predict.md"} <= set(found)
    control, again = json.loads(found["networks.json"])["rows"]
    assert min(row[key] for row in (control, again) for key in ("forward_ms", "step_ms", "peak_mib")) > 0
    assert "== check: left out" in found["log.txt"]
    assert "== train: left out, there is no preprocessed Dataset004" in found["log.txt"]
    assert "failed or left out for time: none" in found["log.txt"]


def test_failing_and_late_stages_do_not_stop_the_others(run, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "LEAST", 0)
    late = "-c \"import subprocess; subprocess.run(['sleep', '60'])\""
    one = run.Run(tmp_path / "out", limit=60, dry=False)
    for stage in (
        run.Stage("fails", 10, "-c 'raise SystemExit(3)'"),
        run.Stage("late", 1, late),
        run.Stage("works", 10, '-c \'open("OUT/made", "w").write("RIVALS")\' RIVALS', rivals="none"),
        run.Stage("absent", 10, "no_such_program", needs="no_such_program"),
    ):
        one.stage(stage)
        one.pack()
    assert one.failed == ["fails", "late"]
    found = results(tmp_path / "out")
    assert {"fails.txt", "late.txt", "works.txt", "made"} <= set(found)
    assert "== late: exit code 124 after 1 s" in found["log.txt"]
    assert "== absent: left out, no_such_program is not installed" in found["log.txt"]
    shutil.rmtree(one.work)


def test_a_stage_without_time_left_is_told_and_counted(run, tmp_path):
    one = run.Run(tmp_path / "out", limit=3, dry=False)
    one.stage(run.Stage("works", 10, "-c pass"))
    assert one.failed == ["works"]
    assert "== works: LEFT OUT" in (one.results / "log.txt").read_text()
    shutil.rmtree(one.work)


def test_an_unknown_stage_is_refused(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "corect"])
    with pytest.raises(SystemExit):
        run.main()
    assert "unknown stage corect; choose from check, correct" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["scan", "networks", "predict", "gpu/breakdown"])
def test_the_commands_have_options_that_the_scripts_know(run, script):
    stages = [f"{stage.command} {stage.dry}" for stage in run.STAGES]
    used = {
        word
        for text in stages
        if f"benchmarks/{script}.py" in text
        for word in re.findall(r" (--[\w-]+)", text)
    }
    assert used
    source = ast.parse((GPU.parent / f"{script}.py").read_text())
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    added = [
        call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    ]
    assert used <= {ast.literal_eval(call.args[0]) for call in added}
