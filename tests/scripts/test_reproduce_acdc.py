"""A study of scripts/reproduce from the release to its pages, on a miniature of ACDC."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import releases
import yaml

STUDY = Path(__file__).parents[2] / "scripts" / "reproduce" / "taming_acdc.yaml"
METHODS = ("nnUNetTrainerControl", "nnUNetTrainerMambaUniPaper", "nnUNetTrainerMambaUniPaperNoSSM")
TRAINERS = f"""
from nnunet_mamba import trainers
from nnunet_mamba.trainers.variants import index_by_name, make_variant

short = {{"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}}
methods = [make_variant(getattr(trainers, name), "_short", settings=short) for name in {METHODS}]
globals().update(index_by_name(methods, __name__))
"""
SHORT = [f"{name}_short" for name in METHODS]


@pytest.fixture
def study(tmp_path, monkeypatch, nnunet_folders) -> Path:
    """taming_acdc.yaml for a CPU: three methods, one fold, one protocol, a small patch, two steps."""
    in_little = releases.heart_bytes  # whose planes are too small for a U-Net of several stages
    monkeypatch.setattr(releases, "heart_bytes", lambda heart: in_little(heart.repeat(4, -1).repeat(4, -2)))
    releases.acdc(tmp_path, training=(1, 2, 3, 4, 5, 6, 7))  # 2 and 3 are of the paper's test set
    monkeypatch.setenv("ACDC", str(tmp_path / "ACDC" / "database"))
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "short_trainers.py").write_text(TRAINERS)
    content = yaml.safe_load(STUDY.read_text())
    content["datasets"][0]["convert"]["options"] = ["--partial"]
    content["plans"]["taming_acdc"]["template"] = "cpu"
    content |= {"trainers": SHORT, "trainers_from": ["short"], "baseline": SHORT[0], "folds": [0]}
    content |= {
        "protocols": ["taming-mambas"],
        "metrics": ["dice"],
        "device": "cpu",
        "mirroring": False,
        "threads": 1,
        "out": str(tmp_path / "out"),
    }
    file = tmp_path / STUDY.name
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.mark.slow
def test_the_study_of_taming_mambas_acdc_ends_with_its_pages(study, tmp_path):
    pytest.importorskip("snakemake")
    command = "import sys; from nnunet_mamba.cli import main; sys.exit(main())"
    swept = subprocess.run(
        [sys.executable, "-c", command, "sweep", str(study), "--cores", "2"],
        env={**os.environ, "nnUNet_compile": "f"},
        capture_output=True,
        text=True,
    )
    assert swept.returncode == 0, swept.stdout + swept.stderr
    out = tmp_path / "out"
    pages = {str(page.parent.relative_to(out)) for page in out.rglob("report.html")}
    assert pages == {f"report/Dataset127_ACDC/{test}.taming-mambas" for test in ("crossval", "paper")}
    predicted = out / "predictions" / "Dataset127_ACDC" / "paper" / f"{SHORT[1]}__taming_acdc__3d_fullres"
    assert {file.name[:10] for file in predicted.glob("*.nii.gz")} == {"patient002", "patient003"}
