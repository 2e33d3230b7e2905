"""The check of nnU-Net's version, and what depends on it."""

import importlib
import sys

import pytest

from nnunet_mamba.nnunet import version


@pytest.mark.parametrize("found", ["2.8.0", "2.8.1", "2.8.12"])
def test_a_supported_nnunet_has_no_fault(monkeypatch, found):
    monkeypatch.setattr(version, "get_nnunet_version", lambda: found)
    assert version.find_version_problem() is None


@pytest.mark.parametrize("found", ["2.7.0", "2.9.0", "3.0", "2.80.0", "1.8.1", None])
def test_any_other_is_a_fault_in_one_line_with_the_remedy(monkeypatch, found):
    monkeypatch.setattr(version, "get_nnunet_version", lambda: found)
    fault = version.find_version_problem()
    assert "\n" not in fault
    assert f"{found or 'none'} is installed" in fault
    assert "pip install 'nnunetv2>=2.8.0,<2.9'" in fault


@pytest.mark.parametrize("found", ["2.7.0", "2.9.0"])
def test_the_trainers_refuse_another_nnunet(monkeypatch, found):
    monkeypatch.setattr(version, "get_nnunet_version", lambda: found)
    monkeypatch.delitem(sys.modules, "nnunet_mamba.trainers", raising=False)
    with pytest.raises(ImportError, match=rf"needs nnunetv2 >= 2\.8\.0 and < 2\.9, but {found} is installed"):
        importlib.import_module("nnunet_mamba.trainers")


def test_the_trainer_folder_is_the_one_of_the_installed_nnunet():
    import nnunetv2

    assert (version.find_trainer_folder() / "nnUNetTrainer.py").is_file()
    assert str(version.find_trainer_folder()).startswith(nnunetv2.__path__[0])
