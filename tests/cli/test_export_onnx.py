"""nnunet-mamba export-onnx checks what it is asked for before it imports anything heavy."""

import re
from pathlib import Path

import pytest

from nnunet_mamba.cli import export_onnx, main

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def model(tmp_path):
    """A folder with the files of a model of one fold, all empty."""
    folder = tmp_path / "nnUNetTrainerMMUNet__nnUNetPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        (folder / name).touch()
    return folder


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """All that an export needs, but for what a test takes away."""
    found = dict.fromkeys(export_onnx.OLDEST, "found")
    monkeypatch.setattr(export_onnx, "find_spec", found.get)
    return found


def refuse(capsys, model, out, *words):
    assert main(["export-onnx", str(model), str(out), *words]) == 2
    assert not out.is_dir() or not list(out.iterdir())
    return capsys.readouterr().err


def test_a_folder_that_does_not_exist_and_folds_that_were_not_trained_are_refused(capsys, model, tmp_path):
    assert "does not exist; expected a folder" in refuse(capsys, tmp_path / "none", tmp_path / "out")
    message = refuse(capsys, model, tmp_path / "out")
    assert "no checkpoint_final.pth of fold 1, 2, 3, 4" in message and "-f 0" in message
    assert "no checkpoint_best.pth" in refuse(
        capsys, model, tmp_path / "out", "-f", "0", "-chk", "checkpoint_best.pth"
    )


def test_a_folder_that_exists_is_kept(capsys, model, tmp_path):
    (tmp_path / "out").mkdir()
    assert "exists already" in refuse(capsys, model, tmp_path / "out", "-f", "0")


def test_what_is_not_installed_is_named(capsys, installed, model, tmp_path):
    del installed["onnxruntime"], installed["onnxscript"]
    message = refuse(capsys, model, tmp_path / "out", "-f", "0")
    assert "needs onnxscript, onnxruntime: pip install onnxscript onnxruntime" in message


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        (
            "torch",
            "2.7.1+cu126",
            r"needs PyTorch 2\.8 or newer; 2\.7\.1\+cu126 is installed: .*'torch>=2\.8'",
        ),
        ("onnxscript", "0.5.6", r"needs onnxscript 0\.7 or newer; 0\.5\.6 is installed"),
        ("onnx", "0.99.0", r"needs onnx 1\.19 or newer"),
    ],
)
def test_what_is_too_old_is_named(capsys, monkeypatch, model, tmp_path, name, version, said):
    newest = {"torch": "10.0.0a0+git1234", "onnx": "1.100.0", "onnxscript": "0.7.0", "onnxruntime": None}
    monkeypatch.setattr(export_onnx, "get_installed_version", newest.get)
    export_onnx.check_versions()
    monkeypatch.setattr(export_onnx, "get_installed_version", {**newest, name: version}.get)
    assert re.search(said, refuse(capsys, model, tmp_path / "out", "-f", "0"))


def test_the_extra_installs_what_is_needed():
    bounds = [f"{name}>={'.'.join(map(str, oldest))}" for name, oldest in export_onnx.OLDEST.items()]
    (extra,) = re.findall(r"^onnx = \[(.*)\]", PYPROJECT.read_text(), re.MULTILINE)
    assert re.findall(r'"(.*?)"', extra) == bounds
