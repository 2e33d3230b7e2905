"""Files that are complete or as they were."""

import os

import pytest

from nnunet_mamba.io.atomic import atomic_directory, atomic_write, write_json, write_text


def test_a_writer_that_fails_leaves_the_old_file_and_no_draft(tmp_path):
    file = tmp_path / "new" / "table.csv"
    write_text(file, "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(file) as draft:
        draft.write_text("ne")
        raise KeyboardInterrupt
    assert [(child.name, child.read_text()) for child in file.parent.iterdir()] == [("table.csv", "old")]


def test_a_folder_that_fails_leaves_nothing_and_takes_only_its_own_parents_along(tmp_path):
    (tmp_path / "results").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_directory(tmp_path / "results" / "Dataset" / "model") as draft,
    ):
        (draft / "weights").write_text("ha")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["results"]


def test_a_draft_has_the_files_ending_and_does_not_reuse_what_was_left(tmp_path):
    (tmp_path / ".partial-a.nii.gz").write_text("left by a kill")
    with atomic_write(tmp_path / "a.nii.gz") as draft:
        assert draft.name.endswith("a.nii.gz") and not draft.exists()
        draft.write_text("whole")
    assert [child.name for child in tmp_path.iterdir()] == ["a.nii.gz"]


def test_json_ends_with_a_line(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'


def test_writers_that_share_a_file_do_not_share_a_draft(tmp_path, monkeypatch):
    """Another process finishes within our block; neither takes or removes the other's half-written file."""
    with atomic_write(tmp_path / "f.txt", shared=True) as ours:
        ours.write_text("ours")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with atomic_write(tmp_path / "f.txt", shared=True) as other:
            other.write_text("other")
        monkeypatch.undo()
        assert ours.read_text() == "ours"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("f.txt", "ours")]
