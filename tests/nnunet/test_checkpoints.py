"""Which checkpoint a training goes on from."""

import zipfile

import numpy as np

from nnunet_mamba.nnunet.checkpoints import recover_checkpoint, remove_unreadable_predictions


def checkpoint(file) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", "weights")


def test_the_one_before_steps_in_for_a_broken_latest(tmp_path):
    said: list[str] = []
    best, latest, previous = (tmp_path / f"checkpoint_{name}.pth" for name in ("best", "latest", "previous"))
    checkpoint(best)
    assert recover_checkpoint(tmp_path, said.append) == best
    checkpoint(latest)
    checkpoint(previous)
    assert recover_checkpoint(tmp_path, said.append) == latest
    latest.write_bytes(b"half")
    assert recover_checkpoint(tmp_path, said.append) == latest
    assert zipfile.is_zipfile(latest) and not previous.exists()
    assert said == [
        "checkpoint_latest.pth was not written to its end and is renamed",
        "checkpoint_previous.pth is used as checkpoint_latest.pth",
    ]


def test_predictions_of_all_of_nnunets_writers_are_kept_and_cut_ones_removed(tmp_path):
    """ITK refuses a sheared header, which nnU-Net writes by nibabel; a stack in a TIFF file is no picture."""
    import nibabel
    import tifffile

    labels = np.zeros((5, 6, 7), np.uint8)
    sheared = np.eye(4) + 0.3 * np.eye(4, k=1)
    nibabel.save(nibabel.Nifti1Image(labels, sheared), tmp_path / "sheared.nii.gz")
    nibabel.save(nibabel.Nifti2Image(labels, np.eye(4)), tmp_path / "second.nii")
    tifffile.imwrite(tmp_path / "stack.tif", labels)
    for name in ("a.npz", "a.pkl", "dataset.json"):
        (tmp_path / name).write_bytes(b"not an image")
    for whole in ("sheared.nii.gz", "stack.tif"):
        (tmp_path / f"cut_{whole}").write_bytes((tmp_path / whole).read_bytes()[:80])
    before = {file.name for file in tmp_path.iterdir()}
    told = []
    remove_unreadable_predictions(tmp_path, told.append)
    left = {file.name for file in tmp_path.iterdir()}
    assert before - left == {"cut_sheared.nii.gz", "cut_stack.tif"}
    assert len(told) == 2
