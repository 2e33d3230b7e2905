"""The whole chain with nnU-Net's real commands and a training of a few iterations."""

import json

import pytest

from nnunet_mamba.study.evaluation import read_table
from nnunet_mamba.study.sweep.quickstart import Settings, run_quickstart

HURRIED = """
from nnunet_mamba.trainers import nnUNetTrainerMMUNet_demo


class nnUNetTrainerHurried(nnUNetTrainerMMUNet_demo):
    settings = {
        **nnUNetTrainerMMUNet_demo.settings,
        "num_epochs": 2,
        "num_iterations_per_epoch": 2,
        "num_val_iterations_per_epoch": 1,
    }
"""


@pytest.mark.slow
def test_the_real_commands_leave_a_page_and_are_not_run_twice(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "hurried.py").write_text(HURRIED)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "mine"))
    monkeypatch.setattr("nnunet_mamba.study.datasets.unseen.N_PHANTOMS", 7)
    said: list[str] = []
    settings = Settings(None, "cpu", "nnUNetTrainerHurried", "3d_fullres", n_unseen=2, seed=0)
    page = run_quickstart(settings, tmp_path / "out", said.append)
    results = json.loads((page.parent / "results.json").read_text())
    assert len(read_table(page.parent / "results.csv")) == len(results["scores"]) == 2 * 3 * 2
    assert results["facts"]["epochs x iterations"] == "2 × 2"
    assert len(results["curves"]["train_loss"]) == 2
    assert any("epoch 2/2" in line for line in said)
    assert any("case 2/2, tile" in line for line in said)
    model = page.parent / "nnUNet_results" / "Dataset900_Phantom"
    assert len(list(model.rglob("validation/*.nii.gz"))) == 4
    said.clear()
    run_quickstart(settings, tmp_path / "out", said.append)
    assert not any("$ " in line for line in said)
