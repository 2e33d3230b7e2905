"""A small study to change."""

import pytest
import yaml

STUDY = {
    "name": "small",
    "device": "cpu",
    "datasets": [{"dataset": "Dataset004_Hippocampus"}],
    "configurations": ["2d"],
    "methods": ["nnUNetTrainerMMUNet", "nnUNetTrainerMMUNetNoSSM"],
    "folds": [0, 1],
    "threads": 1,
}


@pytest.fixture
def write_study(tmp_path, monkeypatch):
    """Writes STUDY with changes to a file; nnU-Net's folders lie beside it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)

    def write(**changes):
        file = tmp_path / "small.yaml"
        content = {"out": str(tmp_path / "out"), **STUDY, **changes}
        file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return file

    return write
