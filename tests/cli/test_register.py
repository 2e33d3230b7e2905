"""nnunet-mamba register, unregister, trainers-path."""

from pathlib import Path

import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.nnunet import register


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(register, "find_trainer_folder", lambda: tmp_path)
    return tmp_path


def test_register_and_unregister_say_what_they_did(folder, capsys):
    assert main(["register"]) == 0
    path = folder / "nnunet_mamba_trainers.py"
    assert str(path) in capsys.readouterr().out
    assert main(["unregister"]) == 0
    assert capsys.readouterr().out == f"Removed {path}\n"
    assert main(["unregister"]) == 0
    assert "Nothing to remove" in capsys.readouterr().out
    assert list(folder.iterdir()) == []


def test_a_refusal_is_one_line_and_exit_code_2(folder, capsys, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    assert main(["register"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nnunet-mamba register: Could not write into ")
    assert captured.err.count("\n") == 1


def test_trainers_path_prints_the_folder_and_nothing_else(capsys):
    assert main(["trainers-path"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "from nnunet_mamba.trainers import *" in Path(line, "nnunet_mamba_trainers.py").read_text()
