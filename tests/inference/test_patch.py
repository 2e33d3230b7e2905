"""Ours in nnU-Net's place: the environment variable, the command, and what nnU-Net's own command writes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.cli import main
from nnunet_mamba.inference import BatchedPredictor, batched_validation
from nnunet_mamba.inference.patch import VALIDATION
from nnunet_mamba.networks.finite import NonFiniteWeightsError
from nnunet_mamba.nnunet.commands import get_trainer_folders
from nnunet_mamba.trainers import nnUNetTrainerMMUNet

CASES = {"one": (9, 20, 17), "two": (6, 11, 12)}
DATASET = "Dataset999_Tiny"


@pytest.fixture(autouse=True)
def threads_as_before():
    """The command sets those of its process."""
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


@pytest.mark.parametrize(
    ("options", "entry"),
    [(["-d", "4"], "predict_entry_point"), (["-m", "x"], "predict_entry_point_modelfolder")],
)
def test_the_verb_passes_all_but_its_own_options_to_nnunet(monkeypatch, options, entry):
    seen = {}

    def stub():
        seen["argv"] = sys.argv
        seen["made"] = predict_from_raw_data.nnUNetPredictor(device=torch.device("cpu"))

    monkeypatch.setenv("nnUNet_extTrainer", "elsewhere")
    monkeypatch.setattr("nnunet_mamba.cli.predict.check_request", lambda words: None)
    monkeypatch.setattr(predict_from_raw_data, entry, stub)
    theirs = [
        "-i",
        "in",
        "-o",
        "out",
        *options,
        "-f",
        "0",
        "1",
        "-tr",
        "T",
        "--disable_tta",
        "-step_size",
        "0.7",
    ]
    assert main(["predict", "--batch-size", "8", *theirs, "--threads", "3"]) == 0
    assert seen["argv"] == ["nnunet-mamba predict", *theirs]
    assert (seen["made"].batch_size, seen["made"].n_threads) == (8, 3)
    assert predict_from_raw_data.nnUNetPredictor is nnUNetPredictor and sys.argv is not seen["argv"]
    assert predict_from_raw_data.export_prediction_from_logits is export_prediction_from_logits


def test_other_verbs_still_refuse_options_that_they_do_not_know(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["networks", "--disable_tta"])
    assert "unrecognized arguments: --disable_tta" in capsys.readouterr().err


def with_resampling(plans: dict) -> dict:
    """What nnU-Net needs besides to prepare and export images."""
    how = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    for configuration in plans["configurations"].values():
        for kind in ("data", "seg", "probabilities"):
            configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
            configuration[f"resampling_fn_{kind}_kwargs"] = {**how, "is_seg": kind == "seg"}
    return {**plans, "foreground_intensity_properties_per_channel": {"0": {}}}


@pytest.fixture
def model(nnunet_folders, make_plans, make_dataset_json):
    """A trained folder with two folds of random weights."""
    plans = with_resampling(make_plans(2, patch=(8, 8, 8)))
    folder = nnunet_folders.results / DATASET / "nnUNetTrainerMMUNet__nnUNetPlans__3d_fullres"
    manager = PlansManager(plans)
    for fold in (0, 1):
        torch.manual_seed(fold)
        network = nnUNetTrainerMMUNet.build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), 1, 3, enable_deep_supervision=False
        )
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainerMMUNet",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(make_dataset_json()))
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, (case, shape) in enumerate(CASES.items()):
        volume = sitk.GetImageFromArray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
        volume.SetSpacing((1.0, 1.2, 1.0))
        sitk.WriteImage(volume, folder / f"{case}_0000.nii.gz")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize("how", ["sequential", "workers", "model folder"])
def test_the_verb_writes_what_nnunets_command_writes(monkeypatch, tmp_path, model, images, how):
    monkeypatch.setenv("nnUNet_extTrainer", "")
    where = ["-m", str(model)] if how == "model folder" else ["-d", DATASET, "-c", "3d_fullres"]
    where += [] if how == "model folder" else ["-tr", "nnUNetTrainerMMUNet"]
    n_workers = "0" if how == "sequential" else "1"
    common = ["-i", str(images), *where, "-f", "0", "1", "-device", "cpu", "--save_probabilities"]
    common += ["-npp", n_workers, "-nps", n_workers, "--disable_progress_bar"]
    assert main(["predict", "--batch-size", "16", *common, "-o", str(tmp_path / "ours")]) == 0
    entry = "predict_entry_point_modelfolder" if how == "model folder" else "predict_entry_point"
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *common, "-o", str(tmp_path / "stock")])
    getattr(predict_from_raw_data, entry)()  # finds the trainer by the variable that the verb has set
    ours, stock = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("ours", "stock"))
    assert ours == stock and "one.nii.gz" in ours
    for case in CASES:
        assert_alike(tmp_path / "ours" / case, tmp_path / "stock" / case)


def assert_alike(ours, stock):
    """Probabilities within what float16 logits allow, labels equal where these do not tie."""
    found, expected = (np.load(f"{path}.npz")["probabilities"] for path in (ours, stock))
    assert np.abs(found - expected).max() < 0.02
    second, best = np.sort(expected, axis=0)[-2:]
    clear = best - second > 0.04
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(f"{path}.nii.gz")) for path in (ours, stock)]
    assert labels[0].shape == CASES[ours.name]
    assert clear.mean() > 0.1 and (labels[0] == labels[1])[clear].all()
    assert (labels[0] == labels[1]).mean() > 0.99


def spoil(model, fold: int) -> str:
    """Put one NaN into the weights of a fold; the name of the layer."""
    file = model / f"fold_{fold}" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    layer = "encoder.stages.1.1.convs.convs.1.conv"
    content["network_weights"][f"{layer}.weight"][2, 0, 0, 0, 0] = torch.nan
    torch.save(content, file)
    return layer


def command(images, out, n_workers: int = 0) -> list[str]:
    return [
        *("-i", str(images), "-o", str(out), "-d", DATASET, "-c", "3d_fullres", "-f", "0", "1"),
        *("-tr", "nnUNetTrainerMMUNet", "-device", "cpu", "--disable_progress_bar"),
        *("-npp", str(n_workers), "-nps", str(n_workers)),
    ]


@pytest.mark.usefixtures("unregistered")
def test_weights_that_are_not_finite_predict_nothing(model, images, tmp_path, capsys):
    layer = spoil(model, fold=1)
    assert main(["predict", *command(images, tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    for part in (
        "nnunet-mamba predict: one, by ",
        str(Path("fold_1", "checkpoint_final.pth")),
        "tile [0:8, 0:8, 0:8] of the preprocessed image",
        f"The first layer whose output is not finite is {layer} (Conv3d), from finite input.",
        f"Weights that hold NaN or infinity: {layer}.weight.",
    ):
        assert part in said
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.usefixtures("unregistered")
def test_nnunets_own_command_predicts_nothing_with_them_either(model, images, tmp_path, monkeypatch):
    layer = spoil(model, fold=0)
    monkeypatch.setenv("nnUNet_extTrainer", get_trainer_folders())
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *command(images, tmp_path / "out")])
    with pytest.raises(NonFiniteWeightsError, match=rf"is {layer} \(Conv3d\)"):
        predict_from_raw_data.predict_entry_point()
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def spoil_image(images, model, case: str) -> None:
    """Put a NaN into one voxel, and let nibabel read it: SimpleITK makes 0 of what is not finite in NIfTI."""
    image = sitk.ReadImage(images / f"{case}_0000.nii.gz")
    image[3, 4, 2] = float("nan")
    sitk.WriteImage(image, images / f"{case}_0000.nii.gz")
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": "NibabelIO"}))


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize(
    "n_workers", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["sequential", "workers"]
)
def test_a_case_that_fails_has_no_label_map_and_the_others_have(model, images, tmp_path, capsys, n_workers):
    spoil_image(images, model, "one")
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.nii.gz").write_text("of an earlier run")
    assert main(["predict", *command(images, out, n_workers)]) == 1
    assert [file.name for file in out.glob("*.nii.gz")] == ["two.nii.gz"]
    said = capsys.readouterr().err
    assert "No label map was written for one.\n" in said
    assert "of the preprocessed image are NaN or infinite, so the fault is the image's" in said
    assert "two:" not in said and "two, by" not in said
