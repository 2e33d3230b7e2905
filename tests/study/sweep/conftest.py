"""A study file to change; and a study of one training job, run with a fake nnUNetv2_train."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from nnunet_mamba.nnunet import commands
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import Layout, Record
from nnunet_mamba.study.sweep.run_job import run_job
from nnunet_mamba.study.sweep.schema import FILE

FAKE = Path(__file__).with_name("fake_train.py")


def write_fake(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    script.chmod(0o755)
    return script


class Bench:
    """A study in a temporary folder; `logged` holds the lines of the last run."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root / "out")
        self.fold = root / "results" / "Dataset900_Phantom" / "nnUNetTrainerX__nnUNetPlans__2d" / "fold_0"
        self.calls_file = root / "calls"
        self.logged: list[str] = []
        products = (self.fold / "checkpoint_final.pth", self.fold / "validation" / "summary.json")
        arguments = ("900", "2d", "0", "-tr", "nnUNetTrainerX")
        self.job = Job(
            "train-x-0",
            "train",
            Command("nnUNetv2_train", arguments),
            products=products,
            own_folder=self.fold,
        )

    def run(self, cache_key: str = "f1", **options) -> Record:
        self.logged = []
        return run_job(self.job, cache_key, self.layout, log=self.logged.append, study="a study", **options)

    def calls(self) -> list[list[str]]:
        """Return the arguments of each call since the last look."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def flags(self) -> list[list[str]]:
        return [[word for word in call if word.startswith("--")] for call in self.calls()]

    def record(self) -> Record:
        record = self.layout.read_record(self.job.name)
        assert record is not None
        return record

    def stamps(self) -> list[str]:
        return sorted(file.name for file in (self.layout.root / "done").glob("*"))

    def files(self) -> set[str]:
        """Return the names of the files in the fold."""
        return {file.name for file in self.fold.iterdir()}

    def lock(self) -> Path:
        return self.layout.lock(self.job)

    def epochs(self, name: str) -> int:
        """Return the number of epochs that a checkpoint has seen."""
        with zipfile.ZipFile(self.fold / f"checkpoint_{name}.pth") as archive:
            return int(archive.read("epochs"))


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.setenv("FAKE_CALLS", str(bench.calls_file))
    monkeypatch.setenv("FAKE_FOLD", str(bench.fold))
    for name in ("NNUNET_MAMBA_GPUS", "SLURM_JOB_ID", "FAKE_TROUBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(commands, "find_program", lambda name: write_fake(tmp_path / "bin", name))
    return bench


ODD = '-it\'s {a} {{b}} #1: 50% "q" $(touch x) `touch y` ;&*?[c] ü ~ '  # the name of a folder


@pytest.fixture
def odd() -> str:
    return ODD


STUDY = {
    "name": "small",
    "device": "cpu",
    "datasets": [{"dataset": "Dataset004_Hippocampus"}],
    "configurations": ["2d"],
    "methods": ["nnUNetTrainerMMUNet", "nnUNetTrainerMMUNetNoSSM"],
    "folds": [0, 1],
    "threads": 1,
}


@pytest.fixture
def write_study(tmp_path, monkeypatch):
    """Return a function that writes STUDY with changes to a file; nnU-Net's folders lie beside it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)

    def write(**changes):
        file = tmp_path / "small.yaml"
        content = {"out": str(tmp_path / "out"), **STUDY, **changes}
        file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return file

    return write


@pytest.fixture(scope="session")
def editor():
    """Return a validator of the schema of study files that editors are given."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)
