"""The file in nnU-Net's trainer folder: written whole, removed without a trace, never another's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba.nnunet import register, version


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A stand-in for nnU-Net's trainer folder."""
    folder = tmp_path / "nnUNetTrainer"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "nnUNetTrainer.py").write_text("class nnUNetTrainer: ...\n")
    (folder / "__pycache__" / "nnUNetTrainer.cpython-311.pyc").write_bytes(b"0")
    monkeypatch.setattr(register, "find_trainer_folder", lambda: folder)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unregister_leaves_no_trace(folder):
    before = contents(folder)
    path = register.register_trainers()
    (folder / "__pycache__" / f"{path.stem}.cpython-311.pyc").write_bytes(b"1")
    (folder / "__pycache__" / f"{path.stem}.cpython-313.pyc").write_bytes(b"2")
    assert register.unregister_trainers() == path
    assert contents(folder) == before


def test_register_adds_one_file_that_others_may_read_and_nothing_else(folder):
    before = contents(folder)
    path = register.register_trainers()
    assert set(contents(folder)) - set(before) == {path}
    assert path.stat().st_mode & 0o777 == 0o644


def test_registering_twice_changes_nothing(folder):
    path = register.register_trainers()
    first = path.stat()
    assert register.register_trainers() == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_file_of_an_older_version_of_ours_is_replaced(folder):
    path = register.shim_path()
    path.write_text(register.MARK + "from nnunet_mamba.nowhere import *\n")
    register.register_trainers()
    assert path.read_text() == register.SHIM


def test_unregister_without_register_is_no_error(folder):
    before = contents(folder)
    assert register.unregister_trainers() is None
    assert contents(folder) == before


@pytest.mark.parametrize("verb", [register.register_trainers, register.unregister_trainers])
def test_a_file_of_somebody_else_stays(folder, verb):
    path = register.shim_path()
    path.write_text("class nnUNetTrainerOfMine: ...\n")
    before = contents(folder)
    with pytest.raises(FileExistsError, match="not written by `nnunet-mamba register`"):
        verb()
    assert contents(folder) == before


def test_a_folder_that_may_not_be_written_is_an_error_that_names_the_other_way(folder, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)  # root may write anywhere
    before = contents(folder)
    with pytest.raises(PermissionError, match=r"Could not write into .*Permission denied.*nnUNet_extTrainer"):
        register.register_trainers()
    assert contents(folder) == before


def test_a_write_that_fails_half_way_leaves_nothing_behind(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    before = contents(folder)
    with pytest.raises(PermissionError, match="No space left on device"):
        register.register_trainers()
    assert contents(folder) == before


def test_a_file_that_may_not_be_removed_is_an_error(folder, monkeypatch):
    register.register_trainers()

    def refused(self, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(PermissionError, match=r"Could not remove .*as the user who owns it"):
        register.unregister_trainers()


def test_an_unsupported_nnunet_is_not_touched(folder, monkeypatch):
    monkeypatch.setattr(version, "get_nnunet_version", lambda: "2.9.0")
    before = contents(folder)
    with pytest.raises(ValueError, match=r"but 2\.9\.0 is installed"):
        register.register_trainers()
    assert contents(folder) == before


def run_shim(tmp_path: Path, **packages: str) -> subprocess.CompletedProcess:
    """Execute the file where only the standard library and `packages` (name -> source) are installed."""
    (tmp_path / "shim.py").write_text(register.SHIM)
    for name, source in packages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "trainers.py").write_text(source)
    command = [
        sys.executable,
        "-S",
        "-c",
        "import shim; print([n for n in dir(shim) if n.startswith('nnUNet')])",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_the_file_is_silent_when_our_package_has_gone(tmp_path):
    result = run_shim(tmp_path)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[]", "")


def test_the_file_is_silent_when_an_empty_folder_of_our_package_remains(tmp_path):
    (tmp_path / "nnunet_mamba" / "__pycache__").mkdir(parents=True)
    assert run_shim(tmp_path).returncode == 0


def test_the_file_hands_on_the_trainers(tmp_path):
    result = run_shim(tmp_path, nnunet_mamba="class nnUNetTrainerX: ...")
    assert result.stdout.strip() == "['nnUNetTrainerX']"


def test_the_file_does_not_hide_that_another_package_is_missing(tmp_path):
    result = run_shim(tmp_path, nnunet_mamba="import a_package_that_is_missing")
    assert result.returncode != 0
    assert "No module named 'a_package_that_is_missing'" in result.stderr


def test_a_newer_nnunet_keeps_its_own_trainers_and_the_user_is_told(tmp_path):
    refusal = "raise ImportError('needs nnunetv2 < 2.9', name='nnunetv2')"
    result = run_shim(tmp_path, nnunet_mamba=refusal)
    assert (result.returncode, result.stdout.strip()) == (0, "[]")
    assert "needs nnunetv2 < 2.9" in result.stderr
