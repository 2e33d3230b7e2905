import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from releases import build

from nnunet_mamba.study.datasets import convert


@pytest.fixture(name="write_image")
def write_image_fixture():
    return write_image


@pytest.fixture(name="describe_decathlon")
def describe_decathlon_fixture():
    return describe_decathlon


def write_image(file: Path, array: np.ndarray) -> None:
    """Write (z, y, x), or (channel, z, y, x) as a 4D image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if array.ndim == 4:
        volumes = [sitk.GetImageFromArray(channel) for channel in array]
        image = sitk.JoinSeries(volumes)
    else:
        image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(file))


@pytest.fixture
def decathlon(tmp_path):
    """Task07_Made with the cases made_0 .. made_9; every label file holds 0, 1 and 2."""
    folder = tmp_path / "Task07_Made"
    names = [f"made_{k}" for k in range(10)]
    for k, name in enumerate(names):
        write_image(folder / "imagesTr" / f"{name}.nii.gz", np.full((3, 4, 5), k, np.float32))
        write_image(
            folder / "labelsTr" / f"{name}.nii.gz", np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3
        )
    describe_decathlon(folder, names)
    return folder


def describe_decathlon(folder: Path, names: list[str], **changes: object) -> None:
    pair = {"image": "./imagesTr/{}.nii.gz", "label": "./labelsTr/{}.nii.gz"}
    description = {
        "name": "Made",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "training": [{kind: path.format(name) for kind, path in pair.items()} for name in names],
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def nnunet_raw(tmp_path):
    """Dataset012_Two with two channels and the cases a .. f."""
    folder = tmp_path / "Dataset012_Two"
    for name in "abcdef":
        for channel in range(2):
            write_image(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", np.zeros((3, 4, 5), np.float32))
        write_image(folder / "labelsTr" / f"{name}.nii.gz", np.ones((3, 4, 5), np.uint8))
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def release(tmp_path):
    """Return a function that builds a miniature release and returns its sources."""
    return lambda name: build(name, tmp_path / "release")


@pytest.fixture
def raw(tmp_path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def converted_cases(monkeypatch) -> list[str]:
    """Return a list that collects the names of the cases that are converted."""
    seen: list[str] = []

    def note(case, *rest):
        seen.append(case.name)
        return convert_case(case, *rest)

    convert_case = convert.convert_case
    monkeypatch.setattr(convert, "convert_case", note)
    return seen
