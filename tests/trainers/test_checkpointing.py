"""Checkpoints: whole or absent, and the one before kept."""

import errno
import os
from pathlib import Path

import pytest
import torch

from nnunet_mamba.nnunet.checkpoints import FINAL, LATEST, PREVIOUS
from nnunet_mamba.trainers import checkpointing, nnUNetTrainerMMUNet
from nnunet_mamba.trainers.checkpointing import atomic_checkpoint, restore_previous


def write(folder: Path, content: str, name: str = LATEST) -> None:
    with atomic_checkpoint(folder / name) as draft:
        assert draft.parent == folder  # a rename does not cross file systems
        draft.write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.fixture(params=["links", "no links"])
def file_system(request, monkeypatch):
    """One with hard links, and one without, as FAT or some network drives are."""

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)
    return request.param


def test_the_last_but_one_is_kept(tmp_path, file_system):
    write(tmp_path, "1")
    assert contents(tmp_path) == {LATEST: "1"}
    for epoch in (2, 3, 4):
        write(tmp_path, str(epoch))
        assert contents(tmp_path) == {LATEST: str(epoch), PREVIOUS: str(epoch - 1)}


def test_of_other_checkpoints_none_is_kept(tmp_path):
    for content in ("1", "2"):
        write(tmp_path, content, "checkpoint_best.pth")
    assert contents(tmp_path) == {"checkpoint_best.pth": "2"}


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, file_system):
    write(tmp_path, "1")
    write(tmp_path, "2")
    with pytest.raises(OSError, match="No space left"), atomic_checkpoint(tmp_path / LATEST) as draft:
        draft.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(tmp_path) == {LATEST: "2", PREVIOUS: "1"}


def test_so_does_a_disk_that_notices_late(tmp_path, monkeypatch):
    write(tmp_path, "1")
    monkeypatch.setattr(
        checkpointing.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error"))
    )
    with pytest.raises(OSError, match="I/O error"):
        write(tmp_path, "2")
    assert contents(tmp_path) == {LATEST: "1"}


def test_the_draft_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    happened = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (happened.append("flush"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *a: (happened.append("rename"), rename(*a)))
    write(tmp_path, "1")
    assert happened[:2] == ["flush", "rename"]
    assert happened[2:] == ["flush"] or os.name == "nt"  # the folder


def test_a_kill_between_two_renames_is_undone_when_the_training_resumes(
    make_trainer, make_plans, nnunet_folders
):
    trainer = make_trainer(nnUNetTrainerMMUNet)
    folder = Path(trainer.output_folder)
    (folder / PREVIOUS).write_text("1")  # without links: moved away, and then killed
    plans = {**make_plans(), "continue_training": True}
    nnUNetTrainerMMUNet(plans, "3d_fullres", 0, trainer.dataset_json, torch.device("cpu"))
    assert (folder / LATEST).read_text() == "1" and not (folder / PREVIOUS).exists()


@pytest.mark.parametrize("present", [LATEST, FINAL])
def test_nothing_is_restored_over_a_newer_checkpoint(tmp_path, present):
    for name, content in ((PREVIOUS, "1"), (present, "2")):
        (tmp_path / name).write_text(content)
    restore_previous(tmp_path)
    assert contents(tmp_path) == {PREVIOUS: "1", present: "2"}


def test_half_written_by_a_kill_is_no_checkpoint_and_is_cleared_by_the_next(tmp_path):
    (tmp_path / f".partial-{LATEST}").write_text("half")
    (tmp_path / f".partial-{PREVIOUS}").write_text("half")
    write(tmp_path, "1")
    write(tmp_path, "2")
    assert contents(tmp_path) == {LATEST: "2", PREVIOUS: "1"}


# in the trainer


@pytest.fixture
def trainer(make_trainer):
    trainer = make_trainer(nnUNetTrainerMMUNet)
    trainer.initialize()
    return trainer


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(trainer, monkeypatch):
    latest = Path(trainer.output_folder, LATEST)
    trainer.save_checkpoint(str(latest))
    before = latest.read_bytes()

    def half(checkpoint, file):
        Path(file).write_bytes(before[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(latest))
    assert latest.read_bytes() == before
    assert [file.name for file in latest.parent.glob("*.pth")] == [LATEST]


def test_other_ranks_and_disabled_checkpointing_write_nothing(trainer):
    latest = Path(trainer.output_folder, LATEST)
    trainer.local_rank = 1
    trainer.save_checkpoint(str(latest))
    trainer.local_rank, trainer.disable_checkpointing = 0, True
    trainer.save_checkpoint(str(latest))
    assert not list(latest.parent.glob("*.pth"))
    assert "checkpointing is disabled" in Path(trainer.log_file).read_text()


def test_a_resumed_training_remembers_its_best_epoch(trainer, make_trainer):
    """nnU-Net saves `checkpoint_latest` before it notes that the epoch was the best."""
    for epoch, dice in enumerate((0.2, 0.8, 0.5)):
        trainer.logger.log("mean_fg_dice", dice, epoch)
    trainer._best_ema = 0.2
    trainer.save_checkpoint(str(Path(trainer.output_folder, LATEST)))
    resumed = make_trainer(nnUNetTrainerMMUNet)
    resumed.load_checkpoint(str(Path(trainer.output_folder, LATEST)))
    assert resumed._best_ema == pytest.approx(0.2 * 0.9**2 + 0.8 * 0.1 * 0.9 + 0.5 * 0.1)
