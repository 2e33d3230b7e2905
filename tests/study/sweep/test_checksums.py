import gzip
import json

import numpy as np
import pytest
from PIL import Image

from nnunet_mamba.study.sweep.checksums import compute_checksum


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "Dataset001_A"
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(name.encode() * 100, mtime=0))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0}, "numTraining": 1}))
    return folder


def test_a_changed_voxel_is_noticed_even_where_the_size_stays(dataset):
    before = compute_checksum([dataset])
    file = dataset / "labelsTr/a.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[0] ^= 1
    changed = gzip.compress(bytes(content), mtime=0)
    assert len(changed) == file.stat().st_size
    file.write_bytes(changed)
    assert compute_checksum([dataset]) != before


def test_a_copy_of_a_dataset_is_the_same_and_test_images_do_not_count(dataset):
    before = compute_checksum([dataset])
    for file in dataset.rglob("*.gz"):
        file.touch()
    (dataset / "imagesTs/c_0000.nii.gz").write_bytes(b"new")
    assert compute_checksum([dataset]) == before


def test_more_cases_and_other_labels_count_and_a_split_counts_by_itself(dataset):
    seen = {compute_checksum([dataset])}
    (dataset / "imagesTr/d_0000.nii.gz").write_bytes(b"new")
    seen.add(compute_checksum([dataset]))
    (dataset / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    seen.add(compute_checksum([dataset]))
    assert len(seen) == 3
    split = dataset / "splits_final.json"
    split.write_text("[]")
    assert compute_checksum([dataset]) in seen
    before = compute_checksum([split])
    split.write_text("[ ]")
    assert compute_checksum([split]) == before, "the layout of JSON is not what it says"
    split.write_text("[1]")
    assert compute_checksum([split]) != before


@pytest.mark.parametrize("name", ["a.nii", "a.tif"])
def test_a_byte_in_the_middle_of_an_uncompressed_file_counts(tmp_path, name):
    content = bytearray(100_000)
    (tmp_path / name).write_bytes(content)
    before = compute_checksum([tmp_path])
    content[50_000] = 1
    (tmp_path / name).write_bytes(content)
    assert compute_checksum([tmp_path]) != before


def test_a_pixel_of_a_png_counts(tmp_path):
    picture = Image.fromarray(np.zeros((40, 40), np.uint8))
    picture.save(tmp_path / "a.png")
    before, size = compute_checksum([tmp_path]), (tmp_path / "a.png").stat().st_size
    for value in range(1, 50):  # until one compresses to the same size
        picture.putpixel((20, 20), value)
        picture.save(tmp_path / "a.png")
        assert compute_checksum([tmp_path]) != before
        if (tmp_path / "a.png").stat().st_size == size:
            break


def test_what_does_not_exist_differs_from_what_is_empty(tmp_path):
    missing = compute_checksum([tmp_path / "a.json"])
    (tmp_path / "a.json").write_text("")
    assert compute_checksum([tmp_path / "a.json"]) != missing
