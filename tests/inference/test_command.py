"""`nnunet-mamba predict` beside nnU-Net's own command, and what it refuses."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_files import read_volume, write_volume
from tiny_models import tiny_dataset, tiny_plans, write_images, write_model

from nnunet_mamba.cli import _parsers, main
from nnunet_mamba.networks.finite import NonFiniteWeightsError
from nnunet_mamba.nnunet.commands import get_trainer_folders
from nnunet_mamba.trainers import nnUNetTrainerMMUNet

CASES = {"one": (9, 20, 17), "two": (6, 11, 12)}
DATASET = "Dataset999_Tiny"
FOLDER = "nnUNetTrainerMMUNet__nnUNetPlans__c"
LAYER = "encoder.stages.1.1.convs.convs.1.conv"


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", CASES, spacing=(1.0, 1.2, 1.0))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def model(nnunet_folders):
    """A trained folder of ours with two folds of random weights."""
    plans = tiny_plans(patch=(8, 8, 8))
    folder = nnunet_folders.results / DATASET / FOLDER
    return write_model(folder, plans, folds=(0, 1), trainer=nnUNetTrainerMMUNet)


@pytest.fixture(autouse=True)
def settings_as_before(monkeypatch):
    """The command sets where nnU-Net looks for trainers, and nnU-Net's the threads of the process: as many as
    there are processors, which on a busy machine wait for each other."""
    monkeypatch.setenv("nnUNet_extTrainer", "")
    monkeypatch.setattr(predict_from_raw_data, "default_num_processes", 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def command(images, out, *more, n_workers: int = 0) -> list[str]:
    return [
        *("-i", str(images), "-o", str(out), "-d", DATASET, "-c", "c", "-f", "0", "1"),
        *("-tr", "nnUNetTrainerMMUNet", "-device", "cpu", "--disable_progress_bar"),
        *("-npp", str(n_workers), "-nps", str(n_workers), *more),
    ]


def test_the_device_is_passed_on(monkeypatch, tmp_path, model, images, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert main(["predict", *command(images, tmp_path / "out", "-device", "mps")]) == 2
    assert "PyTorch finds no Metal device here; -device cpu" in capsys.readouterr().err


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize(
    "how", ["sequential", *(pytest.param(how, marks=pytest.mark.slow) for how in ("workers", "model folder"))]
)
def test_the_verb_writes_what_nnunets_command_writes(monkeypatch, tmp_path, model, images, how):
    where = ["-m", str(model)] if how == "model folder" else ["-d", DATASET, "-c", "c"]
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
    """Probabilities within what float16 logits allow, labels equal where these do not tie, the same grid."""
    found, expected = (np.load(f"{path}.npz")["probabilities"] for path in (ours, stock))
    assert np.abs(found - expected).max() < 0.02
    second, best = np.sort(expected, axis=0)[-2:]
    clear = best - second > 0.04
    images = [sitk.ReadImage(f"{path}.nii.gz") for path in (ours, stock)]
    labels = [sitk.GetArrayFromImage(image) for image in images]
    assert labels[0].shape == CASES[ours.name] and labels[0].dtype == labels[1].dtype
    assert clear.mean() > 0.1 and (labels[0] == labels[1])[clear].all()
    assert (labels[0] == labels[1]).mean() > 0.99
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(images[0], what)() == getattr(images[1], what)()


@pytest.mark.parametrize("entry", ["predict_entry_point", "predict_entry_point_modelfolder"])
def test_every_option_of_nnunets_command_is_known(monkeypatch, entry):
    theirs = {}

    def keep(self, *args, **kwargs):
        theirs.update({action.option_strings[-1]: action for action in self._actions})
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    with pytest.raises(InterruptedError):
        getattr(predict_from_raw_data, entry)()
    ours = _parsers("predict")[1]._option_string_actions
    assert len(theirs) > 15 and theirs.keys() <= ours.keys()
    assert all(ours[name].nargs == action.nargs for name, action in theirs.items())
    our_own = {"-f", "-npp", "-nps"}  # folds are words; one thread each reads and writes
    for name in theirs.keys() - our_own:
        assert str(ours[name].default) == str(theirs[name].default), name


def spoil(model, fold: int) -> None:
    """Put one NaN into the weights of a fold, in LAYER."""
    file = model / f"fold_{fold}" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    content["network_weights"][f"{LAYER}.weight"][2, 0, 0, 0, 0] = torch.nan
    torch.save(content, file)


@pytest.mark.usefixtures("unregistered")
def test_weights_that_are_not_finite_predict_nothing(model, images, tmp_path, capsys):
    spoil(model, fold=1)
    assert main(["predict", *command(images, tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    for part in (
        "nnunet-mamba predict: one, by ",
        str(Path("fold_1", "checkpoint_final.pth")),
        "tile [0:8, 0:8, 0:8] of the preprocessed image",
        f"The first layer whose output is not finite is {LAYER} (Conv3d), from finite input.",
        f"Weights that hold NaN or infinity: {LAYER}.weight.",
    ):
        assert part in said
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.usefixtures("unregistered")
def test_nnunets_own_command_predicts_nothing_with_them_either(model, images, tmp_path, monkeypatch):
    spoil(model, fold=0)
    monkeypatch.setenv("nnUNet_extTrainer", get_trainer_folders())
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *command(images, tmp_path / "out")])
    with pytest.raises(NonFiniteWeightsError, match=rf"is {LAYER} \(Conv3d\)"):
        predict_from_raw_data.predict_entry_point()
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def read_by_nibabel(model) -> None:
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": "NibabelIO"}))


def spoil_image(images, model, case: str) -> None:
    """Put a NaN into one voxel, and let nibabel read it: SimpleITK makes 0 of what is not finite in NIfTI."""
    image = sitk.ReadImage(images / f"{case}_0000.nii.gz")
    image[3, 4, 2] = float("nan")
    sitk.WriteImage(image, images / f"{case}_0000.nii.gz")
    read_by_nibabel(model)


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_case_that_fails_has_no_label_map_and_the_others_have(model, images, tmp_path, capsys, n_workers):
    spoil_image(images, model, "one")
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.nii.gz").write_text("of an earlier run")
    assert main(["predict", *command(images, out, n_workers=n_workers)]) == 1
    assert [file.name for file in out.glob("*.nii.gz")] == ["two.nii.gz"]
    said = capsys.readouterr()
    assert "No label map was written for one.\n" in said.err
    assert "of the preprocessed image are NaN or infinite, so the fault is the image's" in said.err
    assert "two:" not in said.err and "two, by" not in said.err
    assert "Traceback" not in said.err and "1 case in" in said.out


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def without_spacing(file: Path) -> None:
    import nibabel

    image = nibabel.load(file)
    values = np.asarray(image.dataobj)
    image = nibabel.Nifti1Image(values, None, image.header)
    image.header["pixdim"][1:4] = 1, float("nan"), 1
    image.header["qform_code"] = image.header["sform_code"] = 0
    nibabel.save(image, file)


def another_channel(file: Path) -> None:
    file.with_name("one_0001.nii.gz").write_bytes(file.read_bytes())


def too_thin(file: Path) -> None:
    write_volume(file, np.ones((1, 9, 9), np.float32), spacing=(1.0, 1.0, 0.3))


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "one: "),
        (without_spacing, "one: its spacing is [1.0, nan, 1.0]; expected lengths in mm above 0"),
        (another_channel, "one: the image has 2 channels; the network was trained with 1."),
        (too_thin, "one: what is not zero has (1, 9, 9) voxels of"),
    ],
)
def test_a_bad_image_is_named_and_stops_no_other(model, images, tmp_path, capsys, damage, said):
    read_by_nibabel(model)
    damage(images / "one_0000.nii.gz")
    assert main(["predict", *command(images, tmp_path / "out", "--disable_tta")]) == 1
    errors = capsys.readouterr().err
    assert f"nnunet-mamba predict: {said}" in errors and "No label map was written for one.\n" in errors
    assert [file.name for file in (tmp_path / "out").glob("*.nii.gz")] == ["two.nii.gz"]


@pytest.mark.usefixtures("unregistered")
def test_finished_cases_are_skipped_when_asked_for(model, images, tmp_path, capsys):
    out = tmp_path / "out"
    quick = ("--disable_tta", "--continue_prediction")
    assert main(["predict", *command(images, out, *quick)]) == 0
    first = contents(out)
    (out / "one.nii.gz").write_text("kept")
    (out / "two.nii.gz").unlink()
    assert main(["predict", *command(images, out, *quick)]) == 0
    said = capsys.readouterr().out
    assert "two (1/1): read" in said and "1 of 2 cases are finished and skipped" in said
    assert contents(out) == {**first, "one.nii.gz": b"kept"} | {
        name: contents(out)[name] for name in first if name.endswith(".json")
    }
    assert main(["predict", *command(images, out, *quick, "--save_probabilities")]) == 0
    assert (out / "one.npz").is_file() and contents(out)["one.nii.gz"] == first["one.nii.gz"]


@pytest.mark.usefixtures("unregistered")
def test_parts_share_the_cases(model, tmp_path):
    images = write_images(tmp_path / "images", dict.fromkeys("abc", (5, 9, 7)))
    for part, expected in (("1", ["b"]), ("0", ["a", "c"])):
        out = tmp_path / part
        more = ("-num_parts", "2", "-part_id", part, "--disable_tta")
        assert main(["predict", *command(images, out, *more)]) == 0
        assert sorted(file.name[0] for file in out.glob("*.nii.gz")) == expected
    more = ("-num_parts", "9", "-part_id", "8", "--disable_tta")
    assert main(["predict", *command(images, tmp_path / "none", *more)]) == 0


@pytest.mark.usefixtures("unregistered")
def test_an_empty_folder_is_refused(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["predict", *command(tmp_path / "empty", tmp_path / "out")]) == 2
    assert "empty holds no image; expected files named CASE_0000.nii.gz" in capsys.readouterr().err


@pytest.mark.usefixtures("unregistered")
def test_plans_of_another_training_are_refused(model, images, tmp_path, capsys):
    plans = tiny_plans((1.0, 1.0, 2.0), patch=(8, 8, 8))
    (model / "plans.json").write_text(json.dumps(plans))
    assert main(["predict", *command(images, tmp_path / "out")]) == 2
    assert "c: spacing differ. Put the plans of the training back" in capsys.readouterr().err


@pytest.mark.usefixtures("unregistered")
def test_what_is_in_the_way_of_one_pass_is_told_once(model, images, tmp_path, capsys):
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["c"]["resampling_fn_probabilities_kwargs"]["order"] = 3
    (model / "plans.json").write_text(json.dumps(plans))
    assert main(["predict", *command(images, tmp_path / "out", "--disable_tta")]) == 0
    said = capsys.readouterr().out
    assert said.count("nnU-Net's own export, which is slower, makes the label maps: the plans resample") == 1
    for case, shape in CASES.items():
        assert read_volume(tmp_path / "out" / f"{case}.nii.gz").shape == shape


@pytest.mark.usefixtures("unregistered", "nnunet_folders")
def test_a_cascade_sees_the_label_maps_of_its_previous_stage(tmp_path, images, capsys):
    plans = tiny_plans(patch=(8, 8, 8))
    plans["configurations"]["c"]["previous_stage"] = "low"
    plans["configurations"]["low"] = {"inherits_from": "c", "previous_stage": None, "next_stage": "c"}
    model = write_model(tmp_path / "nnUNetTrainer__nnUNetPlans__c", plans)
    stage = tmp_path / "stage"
    rng = np.random.default_rng(0)
    for case, shape in CASES.items():
        labels = rng.integers(0, len(tiny_dataset()["labels"]), shape).astype(np.uint8)
        write_volume(stage / f"{case}.nii.gz", labels, spacing=(1.0, 1.2, 1.0))
    common = ["-i", str(images), "-m", str(model), "-f", "0", "-device", "cpu", "--disable_progress_bar"]
    common += ["-npp", "0", "-nps", "0", "--disable_tta"]
    assert main(["predict", *common, "-o", str(tmp_path / "out")]) == 2
    assert "predict with low first" in capsys.readouterr().err
    common += ["-prev_stage_predictions", str(stage)]
    assert main(["predict", *common, "-o", str(tmp_path / "ours")]) == 0
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    (tmp_path / "stock").mkdir()
    folders = [str(folder) for folder in (images, tmp_path / "stock")]
    predictor.predict_from_files_sequential(*folders, folder_with_segs_from_prev_stage=str(stage))
    for case in CASES:
        ours, stock = (read_volume(tmp_path / name / f"{case}.nii.gz") for name in ("ours", "stock"))
        assert (ours == stock).mean() > 0.99 and len(np.unique(ours)) > 1
