"""A dataset of thick slices: what becomes of values, labels and places, and that it is whole or absent."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_files import read_volume, volume, write_volume

SCRIPT = runpy.run_path(
    str(Path(__file__).parents[2] / "scripts" / "mm_unet" / "thick_slices.py"), run_name="thick_slices"
)
DESCRIPTION = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "file_ending": ".nii.gz",
}


@pytest.fixture
def dataset(nnunet_folders):
    """Two cases of 7 slices, whose values are their numbers."""
    folder = nnunet_folders.raw / "Dataset004_Thin"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for case in ("a", "b"):
        numbers = np.broadcast_to(np.arange(7, dtype=np.int16)[:, None, None], (7, 4, 5))
        write_volume(folder / "imagesTr" / f"{case}_0000.nii.gz", numbers)
        write_volume(folder / "imagesTs" / f"test_{case}_0000.nii.gz", numbers)
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", (numbers % 3).astype(np.uint8))
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "numTraining": 2}))
    return folder


def test_images_are_averaged_and_labels_voted(dataset):
    thick = SCRIPT["make_thick"](dataset, "Dataset104_Thick")
    files = sorted(file.relative_to(dataset) for file in dataset.rglob("*.nii.gz"))
    assert sorted(file.relative_to(thick) for file in thick.rglob("*.nii.gz")) == files
    assert read_volume(thick / "imagesTr" / "a_0000.nii.gz")[:, 0, 0].tolist() == [1, 4, 6]
    assert read_volume(thick / "labelsTr" / "a.nii.gz")[:, 0, 0].tolist() == [1, 1, 0]  # 0 1 2, 0 1 2, 0
    description = json.loads((thick / "dataset.json").read_text())
    assert description == {**DESCRIPTION, "numTraining": 2, "name": "Dataset104_Thick"}


@pytest.mark.parametrize(
    ("labels", "winner"), [((2, 1, 1), 1), ((1, 2, 1), 1), ((2, 0, 1), 0), ((0, 2), 2), ((2,), 2)]
)
def test_most_of_the_slices_decide_or_the_middle_one(labels, winner):
    slices = np.array(labels, np.uint8)[:, None, None]
    result = SCRIPT["vote"](slices)
    assert (result.item(), result.dtype) == (winner, np.uint8)


def test_a_slice_lies_in_the_middle_of_its_own():
    """Each merged value is the coordinate along the slices' normal, averaged: its place says the same."""
    direction = (0, 0, -1, 1, 0, 0, 0, -1, 0)  # columns: the image's axes in space
    thin = volume(np.zeros((6, 2, 3), np.float32))
    thin.SetSpacing((0.5, 0.7, 1.25))
    thin.SetOrigin((10, -20, 30))
    thin.SetDirection(direction)
    place = [thin.TransformIndexToPhysicalPoint((2, 1, k)) for k in range(6)]
    values = np.broadcast_to(np.array([p[0] for p in place], np.float32)[:, None, None], (6, 2, 3))
    copied = sitk.GetImageFromArray(values)
    copied.CopyInformation(thin)
    thick = SCRIPT["merge_slices"](copied, SCRIPT["average"])
    assert thick.GetSpacing() == (0.5, 0.7, 3.75) and thick.GetDirection() == thin.GetDirection()
    for k in range(2):
        there = thick.TransformIndexToPhysicalPoint((2, 1, k))
        assert there == pytest.approx(np.mean(place[3 * k : 3 * k + 3], axis=0))
        assert thick[2, 1, k] == pytest.approx(there[0])


def test_the_dataset_is_whole_or_absent(dataset):
    (dataset / "labelsTr" / "b.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.nii\.gz"):
        SCRIPT["make_thick"](dataset, "Dataset104_Thick")
    assert [folder.name for folder in dataset.parent.iterdir()] == ["Dataset004_Thin"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("Dataset004_Thick", "already"), ("Dataset004_Thin", "already"), ("104", "is not the")],
)
def test_a_name_that_is_taken_or_no_name_is_an_error(dataset, name, message):
    with pytest.raises(ValueError, match=message):
        SCRIPT["make_thick"](dataset, name)
