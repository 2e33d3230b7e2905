"""The whole quickstart on real volumes (Medical Segmentation Decathlon, Task04), the training cut short."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

TASK = Path(__file__).parents[3] / "shared" / "data" / "Task04_Hippocampus"
N_CASES, N_UNSEEN = 14, 3
SHORT_TRAINER = """
from nnunet_mamba.trainers import nnUNetTrainerMMUNet_demo

nnUNetTrainerMMUNet_demo.settings = {
    **nnUNetTrainerMMUNet_demo.settings,
    "num_epochs": 3,
    "num_iterations_per_epoch": 12,
    "num_val_iterations_per_epoch": 2,
}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TASK.is_dir(), reason="the hippocampus volumes are not at ../shared/data"),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """The first cases of the task, linked, as a Decathlon folder of their own."""
    folder = tmp_path_factory.mktemp("task") / "Task04_Hippocampus"
    dataset = json.loads((TASK / "dataset.json").read_text())
    dataset["training"] = dataset["training"][:N_CASES]
    dataset["numTraining"] = N_CASES
    for pair in dataset["training"]:
        for relative in pair.values():
            link = folder / relative
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(TASK / relative)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


@pytest.fixture(scope="module")
def run(task, tmp_path_factory) -> tuple[Path, str]:
    """The folder and the output of one short quickstart."""
    root = tmp_path_factory.mktemp("quickstart")
    (root / "ext").mkdir()
    (root / "ext" / "short_trainer.py").write_text(SHORT_TRAINER)
    command = [
        Path(sys.executable).with_name("nnunet-mamba"),
        "quickstart",
        "--data",
        task,
        "--out",
        root / "out",
    ]
    environment = {**os.environ, "nnUNet_extTrainer": str(root / "ext")}
    result = subprocess.run(
        [*map(str, command), "--cases", str(N_UNSEEN), "--device", "cpu"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return root / "out", result.stdout


def test_nnunets_own_commands_ran_and_were_printed(run):
    _, printed = run
    for command in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"):
        assert command in printed
    assert "-tr nnUNetTrainerMMUNet_demo" in printed


def test_the_training_loss_falls_on_real_volumes(run):
    out, _ = run
    (log,) = out.glob("nnUNet_results/*/nnUNetTrainerMMUNet_demo__*/fold_0/training_log_*.txt")
    losses = [float(value) for value in re.findall(r"train_loss (-?[\d.]+)", log.read_text())]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.02


def test_every_unseen_case_is_predicted_on_its_own_grid(run):
    out, _ = run
    images = sorted(out.glob("nnUNet_raw/*/imagesTs/*_0000.nii.gz"))
    assert len(images) == N_UNSEEN
    for path in images:
        image = sitk.ReadImage(path)
        labels = sitk.ReadImage(out / "predictions" / path.name.replace("_0000", ""))
        assert labels.GetSize() == image.GetSize()
        assert labels.GetSpacing() == pytest.approx(image.GetSpacing())
        assert set(np.unique(sitk.GetArrayViewFromImage(labels))) <= {0, 1, 2}


def test_scores_and_page_are_there(run):
    out, _ = run
    with (out / "results.csv").open() as table:
        rows = list(csv.DictReader(table))
    dice = [row for row in rows if row["metric"] == "dice"]
    assert len(dice) == N_UNSEEN * 2
    assert all(0 <= float(row["value"]) <= 1 for row in dice)
    assert "<html" in (out / "report.html").read_text().lower()
    assert (out / "report.png").stat().st_size > 10_000
