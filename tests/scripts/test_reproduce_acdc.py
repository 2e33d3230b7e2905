"""A study of scripts/reproduce from the release to its page, on a miniature of ACDC."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from releases import acdc

STUDY = Path(__file__).parents[2] / "scripts" / "reproduce" / "taming_acdc.yaml"
METHODS = ["nnUNetTrainerControl", "nnUNetTrainerMambaUniPaper", "nnUNetTrainerMambaUniPaperNoSSM"]
# the same names, found before the package's own
TRAINERS = f"""
from nnunet_mamba import trainers

short = {{"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}}
for name in {METHODS}:
    trainer = getattr(trainers, name)
    body = {{"__module__": __name__, "settings": {{**trainer.settings, **short}}}}
    globals()[name] = type(name, (trainer,), body)
"""


@pytest.fixture
def study(tmp_path, monkeypatch, nnunet_folders) -> Path:
    """taming_acdc.yaml for a CPU: three of its methods, one fold, a small patch, two steps."""
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "short_trainers.py").write_text(TRAINERS)
    (release,) = acdc(tmp_path, training=(1, 2, 3, 4, 5, 6, 7))  # 2 and 3 are of the paper's test set
    monkeypatch.setenv("ACDC", str(release / "database"))
    content = yaml.safe_load(STUDY.read_text())
    content["datasets"][0]["convert"]["options"] = ["--partial"]
    content["plans"]["taming_acdc"]["template"] = "cpu"
    content |= {"trainers": METHODS, "trainers_from": ["short"], "folds": [0], "metrics": ["dice"]}
    content |= {"device": "cpu", "threads": 1, "out": str(tmp_path / "out")}
    file = tmp_path / STUDY.name
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.mark.slow
def test_the_study_of_taming_mambas_acdc_ends_with_its_pages(study, tmp_path):
    pytest.importorskip("snakemake")
    command = [sys.executable, "-c", "import sys; from nnunet_mamba.cli import main; sys.exit(main())"]
    environment = {**os.environ, "nnUNet_compile": "f"}
    swept = subprocess.run(
        [*command, "sweep", str(study), "--cores", "2"], env=environment, capture_output=True, text=True
    )
    assert swept.returncode == 0, swept.stdout + swept.stderr
    made = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("report.html")}
    tests, protocols = ("crossval", "paper"), ("taming-mambas", "honest")
    assert made == {f"report/Dataset127_ACDC/{t}.{p}/report.html" for t in tests for p in protocols}
    predicted = tmp_path / "out/predictions/Dataset127_ACDC/paper" / f"{METHODS[1]}__taming_acdc__3d_fullres"
    assert {file.name[:10] for file in predicted.glob("*.nii.gz")} == {"patient002", "patient003"}
