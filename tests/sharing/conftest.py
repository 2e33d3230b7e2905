"""A trained folder, and its export."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_exports import write_trained

from nnunet_mamba.sharing.export_model import export_model


@pytest.fixture
def trained(tmp_path) -> SimpleNamespace:
    return write_trained(tmp_path / "results")


@pytest.fixture
def exported(trained, tmp_path) -> Path:
    """An export of folds 0 and 1."""
    export_model(trained.folder, tmp_path / "export")
    return tmp_path / "export"
