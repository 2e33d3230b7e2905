"""Which checkpoint a training goes on from."""

import zipfile

from nnunet_mamba.running.resume import usable_checkpoint


def checkpoint(file) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", "weights")


def test_the_one_before_steps_in_for_a_broken_latest(tmp_path):
    said: list[str] = []
    best, latest, previous = (tmp_path / f"checkpoint_{name}.pth" for name in ("best", "latest", "previous"))
    checkpoint(best)
    assert usable_checkpoint(tmp_path, said.append) == best
    checkpoint(latest)
    checkpoint(previous)
    assert usable_checkpoint(tmp_path, said.append) == latest
    latest.write_bytes(b"half")
    assert usable_checkpoint(tmp_path, said.append) == latest
    assert zipfile.is_zipfile(latest) and not previous.exists()
    assert said == [
        "checkpoint_latest.pth was not written to its end and is put aside",
        "checkpoint_previous.pth takes the place of checkpoint_latest.pth",
    ]
