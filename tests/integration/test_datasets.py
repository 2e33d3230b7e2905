"""Each data set's miniature release, converted, planned, preprocessed and trained on for two steps, by
nnU-Net's own code in this process."""

import json
from pathlib import Path

import pytest
from one_process import without_processes
from releases import build

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets.specs import DATASETS

IN_CI = ("acdc", "brats21", "isic18")  # frames of patients, channels and regions, pictures
SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IN_CI, *(name for name in DATASETS if name not in IN_CI)])
def test_a_release_becomes_a_trained_fold(nnunet_folders, monkeypatch, tmp_path, name):
    without_processes(monkeypatch)
    sources = build(name, tmp_path / "release")
    assert main(["convert", name, *map(str, sources)]) == 0
    (raw,) = (found for found in nnunet_folders.raw.iterdir() if not found.name.startswith("."))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # threads, for the planner
    configuration = plan_and_preprocess(raw)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # augment in this process
    trainer = train(nnunet_folders.preprocessed / raw.name, configuration)
    split = json.loads((raw / "splits_final.json").read_text())[0]
    assert trainer.do_split() == (split["train"], split["val"])
    (loss,) = trainer.logger.get_value("train_losses", step=None)
    assert loss == loss and abs(loss) < 1e3
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def plan_and_preprocess(raw: Path) -> str:
    """By nnU-Net's API. Returns the configuration to train."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    def extractor(*args, **options) -> DatasetFingerprintExtractor:
        made = DatasetFingerprintExtractor(*args, **options)
        made.num_foreground_voxels_for_intensitystats = 1e4  # it draws 1e8, whatever the data's size
        return made

    number = int(raw.name[7:10])
    description = json.loads((raw / "dataset.json").read_text())
    configuration = "2d" if description["file_ending"] == ".png" else "3d_fullres"
    extract_fingerprint_dataset(number, extractor, num_processes=1, check_dataset_integrity=True)
    _, plans_name = plan_experiment_dataset(number)
    preprocess_dataset(
        number, plans_identifier=plans_name, configurations=(configuration,), num_processes=(1,)
    )
    return configuration


def train(preprocessed: Path, configuration: str):
    """One epoch of fold 0 on the CPU, by plans cut to the template for CPUs."""
    import torch

    from nnunet_mamba.trainers import nnUNetTrainerMMUNet
    from nnunet_mamba.trainers.variants import make_variant

    plans, description = (
        json.loads((preprocessed / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset")
    )
    trainer_class = make_variant(nnUNetTrainerMMUNet, "Short", settings=SHORT, plans_template="cpu")
    plans["continue_training"] = False
    trainer = trainer_class(plans, configuration, 0, description, torch.device("cpu"))
    trainer.run_training()
    return trainer
