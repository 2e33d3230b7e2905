"""A trainer's final validation with our predictor and export in nnU-Net's place."""

import json
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from one_process import without_processes
from tiny_models import tiny_plans
from tiny_validation import SHAPE, preprocessed_shape, write_preprocessed, write_truth

from nnunet_mamba.inference import BatchedPredictor, batched_validation
from nnunet_mamba.inference.validation import ONE_PASS, VALIDATION
from nnunet_mamba.trainers import nnUNetTrainerControl, nnUNetTrainerMMUNet


@pytest.fixture(autouse=True)
def threads_as_before():
    """Trainers set those of their process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("value", "batch_size"), [("1", 0), ("True", 0), ("0", 1), ("", 1)])
def test_validation_is_in_batches_only_when_asked_for(monkeypatch, value, batch_size):
    """Ours it is in any case, for nnU-Net's makes background of NaN; 0: chosen with the first patch."""
    monkeypatch.setenv(VALIDATION, value)
    log = []
    with pytest.raises(KeyError), batched_validation(log.append):
        made = trainer_module.nnUNetPredictor(device=torch.device("cpu"))
        assert isinstance(made, BatchedPredictor) and made.batch_size == batch_size
        raise KeyError
    assert trainer_module.nnUNetPredictor is nnUNetPredictor
    assert len(log) == (batch_size == 0)


@pytest.mark.parametrize(("value", "ours"), [("1", True), ("t", True), ("0", False), ("", False)])
def test_label_maps_are_exported_in_one_pass_only_when_asked_for(monkeypatch, value, ours):
    monkeypatch.setenv(ONE_PASS, value)
    names = ("export_prediction_from_logits", "resample_and_save", "multiprocessing")
    stock = [getattr(trainer_module, name) for name in names]
    log = []
    with pytest.raises(KeyError), batched_validation(log.append):
        changed = [getattr(trainer_module, name) for name in names]
        assert [one is not other for one, other in zip(changed, stock, strict=True)] == [ours] * 3
        raise KeyError
    assert [getattr(trainer_module, name) for name in names] == stock
    assert len(log) == ours and all(f"{ONE_PASS} is set: " in line for line in log)


def test_a_trainers_validation_runs_within_with_the_threads_of_the_training(monkeypatch, make_trainer):
    seen = []
    monkeypatch.setenv(VALIDATION, "1")
    monkeypatch.setattr(
        trainer_module.nnUNetTrainer,
        "perform_actual_validation",
        lambda self, save: seen.append((trainer_module.nnUNetPredictor(device=self.device), save)),
    )
    make_trainer(nnUNetTrainerMMUNet).perform_actual_validation(True)
    predictor, save = seen[0]
    assert isinstance(predictor, BatchedPredictor) and save is True
    assert predictor.n_threads == torch.get_num_threads()


@pytest.fixture
def make_validated(make_trainer, nnunet_folders, monkeypatch):
    """A function: validate a network of random weights, the first stage of a cascade; its folder."""

    def make() -> Path:
        plans = tiny_plans(patch=(8, 8, 8))
        plans["configurations"]["c"]["next_stage"] = "next"
        other = {"inherits_from": "c", "next_stage": None, "previous_stage": "c", "spacing": [0.5, 0.6, 0.7]}
        plans["configurations"]["next"] = {**other, "data_identifier": "of_the_next"}
        torch.manual_seed(0)
        trainer = make_trainer(nnUNetTrainerControl, plans, "c")
        folder = Path(trainer.preprocessed_dataset_folder)
        (folder / "case.b2nd").unlink(missing_ok=True)
        write_preprocessed(folder, (1.0, 1.0, 1.0))
        write_preprocessed(folder.parent / "of_the_next", (0.5, 0.6, 0.7))
        write_truth(folder.parent / "gt_segmentations")
        splits = [{"train": ["case_2"], "val": ["case_0", "case_1"]}]
        (folder.parent / "splits_final.json").write_text(json.dumps(splits))
        trainer.initialize()
        trainer.perform_actual_validation(save_probabilities=True)
        return Path(trainer.output_folder)

    without_processes(monkeypatch)
    return make


def test_in_one_pass_nnunets_validation_writes_the_same_files(make_validated, monkeypatch):
    """Label maps, probabilities, scores and labels for the next stage of a cascade."""
    called, found = [], {}
    monkeypatch.setattr(
        trainer_module,
        "export_prediction_from_logits",
        lambda *arguments: called.append(export_prediction_from_logits(*arguments)),
    )
    for asked in ("", "1"):
        monkeypatch.setenv(ONE_PASS, asked)
        folder = make_validated()
        validation, stage = folder / "validation", folder.parent / "predicted_next_stage" / "next"
        assert len(called) == 2  # by nnU-Net's export, in the first validation only
        labels = {file.name: sitk.ReadImage(file) for file in validation.glob("*.nii.gz")}
        found[asked] = {
            "files": sorted(file.name for file in (*validation.iterdir(), *stage.iterdir())),
            "labels": [sitk.GetArrayFromImage(labels[name]).tolist() for name in sorted(labels)],
            "spacing": [labels[name].GetSpacing() for name in sorted(labels)],
            "next": [blosc2.open(file, mode="r")[:].tolist() for file in sorted(stage.iterdir())],
            "dice": json.loads((validation / "summary.json").read_text())["mean"],
        }
        probabilities = [np.load(file)["probabilities"] for file in sorted(validation.glob("*.npz"))]
        found.setdefault("probabilities", []).append(np.stack(probabilities))
        for file in (*validation.iterdir(), *stage.iterdir()):
            file.unlink()
    one, other = found.pop("probabilities")
    assert one.shape == other.shape == (2, 3, *SHAPE) and np.abs(one - other).max() < 1e-2
    assert found[""] == found["1"]
    assert np.shape(found["1"]["next"]) == (2, *preprocessed_shape((0.5, 0.6, 0.7)))
    assert len(np.unique(found["1"]["labels"])) > 1 and len(np.unique(found["1"]["next"])) > 1


def test_an_export_that_fails_fails_the_validation(make_validated, monkeypatch):
    """Also in a thread: nnU-Net asks each result."""

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setenv(ONE_PASS, "1")
    monkeypatch.setattr("nnunet_mamba.inference.validation.export_prediction", fail)
    with pytest.raises(OSError, match="No space left"):
        make_validated()
