"""benchmarks/mistakes.py: every mistake is refused in a line or two, before anything heavy is imported."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "nnunetv2", "monai", "pandas", "matplotlib", "numba")
CHILD = """
import contextlib, io, json, sys
from nnunet_mamba.cli import main
said = {}
for command in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(command.split())
        except SystemExit as error:
            code = error.code
    heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    said[command] = (code, out.getvalue(), heavy)
print(json.dumps(said))
"""


@pytest.fixture
def mistakes(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("mistakes")


def test_no_mistake_waits_for_torch(mistakes, tmp_path):
    variables = mistakes.make_folders(tmp_path)
    clean = {name: value for name, value in os.environ.items() if name != "nnUNet_extTrainer"}
    argv = [sys.executable, "-c", CHILD, json.dumps(mistakes.MISTAKES), json.dumps(HEAVY)]
    done = subprocess.run(
        argv, cwd=tmp_path, env={**clean, **variables}, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == list(mistakes.MISTAKES)
    for command, (code, said, heavy) in found.items():
        assert code == 2 and said.strip(), command
        assert "Traceback" not in said and len(said) < 800, said
        assert not heavy, command
    for command, meant in {
        "trainers mmunett": "Did you mean nnUNetTrainerMMUNet?",
        "plans apply cpuu 4": "Did you mean cpu?",
        "convert acdd images": "Did you mean acdc?",
        "evaluate images images --protocol hones": "Did you mean honest?",
        "quickstart --trainer nnUNetTrainerMMUnet": "Did you mean nnUNetTrainerMMUNet?",
    }.items():
        assert meant in found[command][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "preprocessed", "raw", "results"]


def test_the_record_has_a_row_for_each(mistakes, tmp_path):
    variables = mistakes.make_folders(tmp_path)
    row = mistakes.measure("networks mmunett", tmp_path, variables)
    assert row["exit"] == 2 and row["seconds"] > 0
    assert row["message"] == (
        "nnunet-mamba networks: Unknown network 'mmunett'. Did you mean mm_unet? `nnunet-mamba networks` "
        "lists all."
    )
