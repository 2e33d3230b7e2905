"""Which checkpoint a training goes on from."""

import zipfile

from nnunet_mamba.running.resume import usable_checkpoint


def checkpoint(file) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", "weights")


def test_the_one_before_steps_in_for_a_broken_latest(tmp_path):
    said: list[str] = []
    for name in ("best", "previous", "latest"):
        checkpoint(tmp_path / f"checkpoint_{name}.pth")
        assert usable_checkpoint(tmp_path, said.append) == tmp_path / f"checkpoint_{name}.pth"
    (tmp_path / "checkpoint_latest.pth").write_bytes(b"half")
    assert usable_checkpoint(tmp_path, said.append) == tmp_path / "checkpoint_previous.pth"
    assert said == ["checkpoint_latest.pth was not written to its end and is put aside"]
    assert not (tmp_path / "checkpoint_latest.pth").exists()  # the trainer renames the one before to this
