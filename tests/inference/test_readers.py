"""The command beside nnU-Net's predictor for every kind of file that nnU-Net reads: the same bytes."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from skimage import io
from tiny_files import volume
from tiny_models import tiny_dataset, tiny_plans, write_model

from nnunet_mamba.cli import main

SHAPE = (9, 20, 17)
TURNED = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # axes of the file that are no reader's own


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def write_colours(file):
    io.imsave(file, noise((21, 30, 3)), check_contrast=False)


def write_tiff(file):
    tifffile.imwrite(file, noise(SHAPE))
    file.with_name("a.json").write_text(json.dumps({"spacing": [2.0, 0.8, 0.9]}))


def write_slice(file):
    sitk.WriteImage(sitk.GetImageFromArray(noise(SHAPE[1:], np.float32)), str(file))


def write_turned(file):
    sitk.WriteImage(volume(noise(SHAPE, np.float32), spacing=(0.8, 0.9, 1.7), direction=TURNED), str(file))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize(
    ("reader", "ending", "write", "ndim", "n_channels"),
    [
        ("NaturalImage2DIO", ".png", write_colours, 2, 3),
        ("NaturalImage2DIO", ".tif", write_colours, 2, 3),
        ("Tiff3DIO", ".tif", write_tiff, 3, 1),
        ("SimpleITKIO", ".nii.gz", write_slice, 2, 1),
        ("SimpleITKIO", ".nrrd", write_turned, 3, 1),
        ("SimpleITKIO", ".mha", write_turned, 3, 1),
        ("SimpleITKIOWithReorient", ".nii.gz", write_turned, 3, 1),
        ("NibabelIO", ".nii", write_turned, 3, 1),
        ("NibabelIOWithReorient", ".nii.gz", write_turned, 3, 1),
    ],
)
def test_files_are_those_of_nnunet(tmp_path, nnunet_folders, reader, ending, write, ndim, n_channels):
    images, ours, stock = (tmp_path / name for name in ("images", "ours", "stock"))
    for folder in (images, stock):
        folder.mkdir()
    write(images / f"a_0000{ending}")
    plans = tiny_plans((1.0,) * ndim, (0, 2, 1), n_channels, patch=(8,) * ndim)
    plans["image_reader_writer"] = reader
    model = write_model(
        tmp_path / "nnUNetTrainer__nnUNetPlans__c", plans, tiny_dataset("labels", n_channels, ending)
    )
    command = ["predict", "-i", str(images), "-o", str(ours), "-m", str(model), "-f", "0", "-device", "cpu"]
    assert main([*command, "--disable_progress_bar", "--disable_tta", "--batch-size", "1"]) == 0
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(str(images), str(stock))
    assert {file.name for file in ours.iterdir()} == {file.name for file in stock.iterdir()}
    for file in ours.glob("a.*"):
        assert file.read_bytes() == (stock / file.name).read_bytes()
    assert len(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(ours / f"a{ending}"))))) > 1
