import json

import pytest

from nnunet_mamba.datasets.source import read_source


def change(folder, **values):
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_decathlon_task_is_told_in_nnunets_words(decathlon):
    source = read_source(decathlon)
    assert source.name == "Dataset007_Made"
    assert source.labels == {"background": 0, "front": 1, "back": 2}
    assert source.channel_names == {"0": "MRI"}
    assert [case.name for case in source.cases] == [f"made_{k}" for k in range(10)]
    assert source.cases[3].images == (decathlon.resolve() / "imagesTr" / "made_3.nii.gz",)


def test_another_folder_name_takes_the_name_in_the_file(decathlon):
    folder = decathlon.rename(decathlon.with_name("my_download"))
    change(folder, name="Liver and spleen")
    assert read_source(folder).name == "Dataset901_Liverandspleen"


def test_an_nnunet_dataset_keeps_its_name_regions_and_channels(nnunet_raw):
    source = read_source(nnunet_raw)
    assert source.name == "Dataset012_Two"
    assert [file.name for file in source.cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert source.label_values == {0, 1, 2}
    assert source.extra == {"regions_class_order": [1, 2]}


def test_hidden_files_of_macos_archives_are_no_cases(decathlon):
    for part in ("imagesTr", "labelsTr"):
        (decathlon / part / "._made_0.nii.gz").write_bytes(b"resource fork")
    assert len(read_source(decathlon).cases) == 10


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"is no dataset: it has no dataset\.json\. Give a Medical"):
        read_source(tmp_path)


def test_a_description_of_neither_kind(tmp_path):
    (tmp_path / "dataset.json").write_text('{"files": []}')
    with pytest.raises(
        ValueError, match=r"neither a Decathlon task's .* nor nnU-Net's .* its keys are files"
    ):
        read_source(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), ("[]", "holds a list")])
def test_a_broken_description(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path)


def test_a_decathlon_image_without_its_label_and_the_reverse(decathlon):
    (decathlon / "labelsTr" / "made_4.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"missing from labelsTr: made_4\.nii\.gz\."):
        read_source(decathlon)
    (decathlon / "imagesTr" / "made_4.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"missing from imagesTr: made_4\.nii\.gz\."):
        read_source(decathlon)


def test_decathlon_files_that_the_list_does_not_name(decathlon, describe_decathlon):
    describe_decathlon(decathlon, [f"made_{k}" for k in range(9)])
    with pytest.raises(ValueError, match=r"without a label in the training list: made_9\.nii\.gz\."):
        read_source(decathlon)


def test_an_nnunet_image_without_its_label_and_the_reverse(nnunet_raw):
    label = nnunet_raw / "labelsTr" / "c.nii.gz"
    label.rename(nnunet_raw / "labelsTr" / "z.nii.gz")
    with pytest.raises(ValueError, match=r"image but without a label in labelsTr: c\."):
        read_source(nnunet_raw)
    for channel in range(2):
        (nnunet_raw / "imagesTr" / f"c_{channel:04d}.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"label but without an image in imagesTr: z\."):
        read_source(nnunet_raw)


def test_an_nnunet_case_that_lacks_a_channel(nnunet_raw):
    (nnunet_raw / "imagesTr" / "b_0001.nii.gz").unlink()
    with pytest.raises(
        ValueError, match=r"Case b .* b_0000\.nii\.gz, b_0001\.nii\.gz; it has b_0000\.nii\.gz"
    ):
        read_source(nnunet_raw)


def test_an_nnunet_dataset_under_another_name(nnunet_raw):
    folder = nnunet_raw.rename(nnunet_raw.with_name("brains"))
    with pytest.raises(ValueError, match="rename it, for example to Dataset901_brains"):
        read_source(folder)


@pytest.mark.parametrize(
    "labels", [{"background": 0, "a": 1, "b": 3}, {"a": 1, "b": 2}], ids=["gap", "no background"]
)
def test_labels_with_a_gap_are_refused(nnunet_raw, labels):
    change(nnunet_raw, labels=labels)
    with pytest.raises(ValueError, match=r"needs 0, 1, 2, .* without a gap"):
        read_source(nnunet_raw)


def test_a_missing_folder_is_named(decathlon):
    (decathlon / "labelsTr").rename(decathlon / "labels")
    with pytest.raises(ValueError, match=r"labelsTr is missing"):
        read_source(decathlon)
