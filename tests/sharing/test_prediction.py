"""A shared model predicts as the original does, with this package and with nnU-Net's own predictor."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import configuration
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_models import tiny_dataset, tiny_plans, write_images, write_model

from nnunet_mamba.cli import main
from nnunet_mamba.inference.model import hash_weights, load_model
from nnunet_mamba.nnunet.commands import get_trainer_folders
from nnunet_mamba.trainers import nnUNetTrainerMMUNet

METHOD = "nnUNetTrainerMMUNet__nnUNetPlans__c"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of ours of two folds, its export, and images."""
    root = tmp_path_factory.mktemp("shared")
    model = root / "Dataset999_Tiny" / METHOD
    write_model(model, tiny_plans(patch=(8, 8, 8)), folds=(0, 1), trainer=nnUNetTrainerMMUNet)
    write_images(root / "images", {"one": (6, 11, 12)})
    assert main(["export-model", str(model), str(root / "export")]) == 0
    return root


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """No folder of nnU-Net's is set, and threads are as many as before."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", get_trainer_folders())  # as `predict` does
    monkeypatch.setattr(predict_from_raw_data, "default_num_processes", 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def predict(folders, model, out, *more):
    words = ["-i", folders / "images", "-o", out, "-m", model, "-device", "cpu", "-npp", 0, "-nps", 0, *more]
    words += ["--disable_progress_bar", "--disable_tta", "--save_probabilities"]
    assert main(["predict", *map(str, words)]) == 0
    return {file.name: file.read_bytes() for file in out.iterdir() if file.suffix in (".gz", ".npz")}


def test_label_maps_and_probabilities_are_equal_to_the_last_byte(folders, tmp_path):
    assert main(["import-model", str(folders / "export"), "-o", str(tmp_path / "there")]) == 0
    imported = tmp_path / "there" / "Dataset999_Tiny" / METHOD
    original = predict(folders, folders / "Dataset999_Tiny" / METHOD, tmp_path / "0", "-f", 0, 1)
    assert set(original) == {"one.nii.gz", "one.npz"}
    assert predict(folders, imported, tmp_path / "1", "-f", 0, 1) == original
    assert predict(folders, folders / "export", tmp_path / "2", "-f", 0, 1) == original


def test_checksums_of_weights_stay(folders):
    def checksum(model):
        return hash_weights(load_model(model, ["0", "1"], "checkpoint_final.pth", "cpu").list_of_parameters)

    assert main(["import-model", str(folders / "export"), "-o", str(folders / "hash")]) == 0
    original = checksum(folders / "Dataset999_Tiny" / METHOD)
    assert checksum(folders / "hash" / "Dataset999_Tiny" / METHOD) == original


@pytest.mark.parametrize("ndim", [2, 3])
def test_nnunets_own_predictor_takes_its_own_network_back(tmp_path, ndim):
    plans = tiny_plans()
    plans["configurations"]["c"] |= configuration(ndim, 2)
    model = write_model(tmp_path / "Dataset999_Tiny" / "nnUNetTrainer__nnUNetPlans__c", plans, tiny_dataset())
    assert main(["export-model", str(model), str(tmp_path / "export")]) == 0
    assert main(["import-model", str(tmp_path / "export"), "-o", str(tmp_path / "there")]) == 0
    imported = tmp_path / "there" / "Dataset999_Tiny" / model.name
    image = torch.randn(1, 6, 11, 12)
    logits = []
    for folder in (model, imported):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), (0,))
        assert predictor.allowed_mirroring_axes == tuple(range(ndim))
        logits.append(predictor.predict_logits_from_preprocessed_data(image))
    assert torch.equal(*logits) and logits[0].std() > 0
    sizes = [(f / "fold_0" / "checkpoint_final.pth").stat().st_size for f in (model, imported)]
    assert sizes[1] < 1.1 * sizes[0], "names that share memory are not written twice"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-f", "0", "1", "2"), "has no fold 2; give -f 0 1"),
        ((), "has no fold 2, 3, 4; give -f 0 1"),
        (("-f", "0", "-chk", "checkpoint_best.pth"), "has one checkpoint of each fold; leave -chk out"),
    ],
)
def test_predict_refuses_folds_that_an_export_lacks(folders, tmp_path, capsys, options, said):
    words = ["-i", folders / "images", "-o", tmp_path / "out", "-m", folders / "export", *options]
    assert main(["predict", *map(str, words)]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_predict_refuses_a_damaged_export(folders, tmp_path, capsys):
    export = tmp_path / "export"
    shutil.copytree(folders / "export", export)
    (export / "fold_1.safetensors").write_bytes(b"")
    words = ["-i", folders / "images", "-o", tmp_path / "out", "-m", export, "-device", "cpu", "-f", 1]
    assert main(["predict", *map(str, words)]) == 2
    assert "has damaged files: fold_1.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_predicts_where_no_variable_of_nnunet_is_set(folders, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    words = ["-i", folders / "images", "-o", tmp_path / "out", "-m", folders / "export", "-f", 0]
    command = [sys.executable, "-m", "nnunet_mamba", "predict", *map(str, words), "-device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "out" / "one.nii.gz").is_file(), done.stderr
