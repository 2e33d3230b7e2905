import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.datasets.raw import draw_split, write_raw_dataset
from nnunet_mamba.datasets.source import read_source

NAMES = [f"made_{k}" for k in range(10)]


def convert(folder, target, **options):
    source = read_source(folder)
    choice = {"n_unseen": 3, "n_validation": 2, "seed": 0, **options}
    split = draw_split([case.name for case in source.cases], **choice)
    return write_raw_dataset(source, target, split), split


def test_a_split_takes_every_case_once():
    split = draw_split(NAMES, n_unseen=3, n_validation=2, seed=0)
    assert (len(split.unseen), len(split.validation), len(split.training)) == (3, 2, 5)
    assert sorted(split.unseen + split.validation + split.training) == NAMES


def test_a_split_depends_on_names_and_seed_not_on_order():
    split = draw_split(NAMES, n_unseen=3, n_validation=2, seed=0)
    assert draw_split(NAMES[::-1], n_unseen=3, n_validation=2, seed=0) == split
    assert draw_split(NAMES, n_unseen=3, n_validation=2, seed=1) != split


@pytest.mark.parametrize("n_unseen", [0, 6])
def test_too_many_or_no_unseen_cases_are_refused_with_the_range(n_unseen):
    with pytest.raises(ValueError, match="choose between 1 and 5"):
        draw_split(NAMES, n_unseen=n_unseen, n_validation=2, seed=0)


def test_unseen_cases_are_where_nnunet_does_not_train(decathlon, tmp_path):
    raw, split = convert(decathlon, tmp_path / "Dataset007_Made")
    unseen = {file.name for file in (raw / "imagesTs").iterdir()}
    assert unseen == {f"{name}_0000.nii.gz" for name in split.unseen}
    assert {file.name for file in (raw / "labelsTs").iterdir()} == {f"{name}.nii.gz" for name in split.unseen}
    assert len(list((raw / "imagesTr").iterdir())) == len(list((raw / "labelsTr").iterdir())) == 7
    (fold,) = json.loads((raw / "splits_final.json").read_text())
    assert (set(fold["train"]), set(fold["val"])) == (set(split.training), set(split.validation))


def test_the_description_is_nnunets(decathlon, tmp_path):
    raw, _ = convert(decathlon, tmp_path / "Dataset007_Made")
    assert json.loads((raw / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "numTraining": 7,
        "file_ending": ".nii.gz",
    }


def test_each_image_is_its_own(decathlon, tmp_path):
    raw, _ = convert(decathlon, tmp_path / "Dataset007_Made")
    for k in range(10):
        (file,) = raw.glob(f"images*/made_{k}_0000.nii.gz")
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) == k).all()


def test_a_file_system_without_links_gets_copies(decathlon, tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError("not supported")

    monkeypatch.setattr("pathlib.Path.symlink_to", no_links)
    raw, _ = convert(decathlon, tmp_path / "Dataset007_Made")
    files = list(raw.glob("*T?/*.nii.gz"))
    assert len(files) == 20
    assert not any(file.is_symlink() for file in files)


def test_4d_images_become_one_file_per_channel(decathlon, tmp_path, write_image, describe_decathlon):
    for k, name in enumerate(NAMES):
        channels = np.stack([np.full((3, 4, 5), 10 * k + channel, np.float32) for channel in range(2)])
        write_image(decathlon / "imagesTr" / f"{name}.nii.gz", channels)
    describe_decathlon(decathlon, NAMES, modality={"0": "T1", "1": "T2"})
    raw, _ = convert(decathlon, tmp_path / "Dataset007_Made")
    for k in range(10):
        for channel in range(2):
            (file,) = raw.glob(f"images*/made_{k}_{channel:04d}.nii.gz")
            image = sitk.ReadImage(str(file))
            assert image.GetSize() == (5, 4, 3)
            assert (sitk.GetArrayFromImage(image) == 10 * k + channel).all()


def test_channels_that_do_not_fit_the_description(decathlon, tmp_path, describe_decathlon):
    describe_decathlon(decathlon, NAMES, modality={"0": "T1", "1": "T2"})
    with pytest.raises(ValueError, match=r"made_0\.nii\.gz has the size \(5, 4, 3\).* names 2 channels"):
        convert(decathlon, tmp_path / "Dataset007_Made")


def test_an_nnunet_dataset_is_taken_over_with_its_regions(nnunet_raw, tmp_path):
    raw, split = convert(nnunet_raw, tmp_path / "out" / "Dataset012_Two", n_unseen=1)
    assert json.loads((raw / "dataset.json").read_text())["regions_class_order"] == [1, 2]
    assert len(list((raw / "imagesTs").iterdir())) == 2 * len(split.unseen) == 2


def test_a_label_that_the_description_does_not_name(decathlon, tmp_path, write_image):
    write_image(decathlon / "labelsTr" / "made_6.nii.gz", np.full((3, 4, 5), 9, np.uint8))
    with pytest.raises(
        ValueError, match=r"made_6\.nii\.gz holds the label 9, which .* \(it names \[0, 1, 2\]\)"
    ):
        convert(decathlon, tmp_path / "Dataset007_Made")
    assert not list(tmp_path.glob("*Dataset007*")) and not list(tmp_path.glob(".Dataset007*"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no image at all"])
@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_damaged_file_is_named_and_nothing_is_left(decathlon, tmp_path, part, damage):
    file = decathlon / part / "made_2.nii.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{part}/made_2\.nii\.gz cannot be read as an image"):
        convert(decathlon, tmp_path / "Dataset007_Made")
    assert not list(tmp_path.glob("*Dataset007*")) and not list(tmp_path.glob(".Dataset007*"))


def test_progress_is_told_case_by_case(decathlon, tmp_path):
    source = read_source(decathlon)
    split = draw_split(NAMES, n_unseen=3, n_validation=2, seed=0)
    seen = []
    write_raw_dataset(source, tmp_path / "Dataset007_Made", split, progress=lambda *pair: seen.append(pair))
    assert seen == [(k, 10) for k in range(1, 11)]
