import gzip
import json

import pytest

from nnunet_mamba.sweep.digests import digest


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "Dataset001_A"
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(name.encode() * 100, mtime=0))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0}, "numTraining": 1}))
    return folder


def test_a_changed_voxel_is_noticed_even_where_the_size_stays(dataset):
    before = digest([dataset])
    file = dataset / "labelsTr/a.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[0] ^= 1
    changed = gzip.compress(bytes(content), mtime=0)
    assert len(changed) == file.stat().st_size
    file.write_bytes(changed)
    assert digest([dataset]) != before


def test_a_copy_of_a_dataset_is_the_same_and_test_images_do_not_count(dataset):
    before = digest([dataset])
    for file in dataset.rglob("*.gz"):
        file.touch()
    (dataset / "imagesTs/c_0000.nii.gz").write_bytes(b"new")
    assert digest([dataset]) == before


def test_more_cases_another_split_and_other_labels_count(dataset):
    seen = {digest([dataset])}
    (dataset / "imagesTr/d_0000.nii.gz").write_bytes(b"new")
    seen.add(digest([dataset]))
    (dataset / "splits_final.json").write_text("[]")
    seen.add(digest([dataset]))
    (dataset / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    seen.add(digest([dataset]))
    assert len(seen) == 4


def test_what_does_not_exist_differs_from_what_is_empty(tmp_path):
    missing = digest([tmp_path / "a.json"])
    (tmp_path / "a.json").write_text("")
    assert digest([tmp_path / "a.json"]) != missing
