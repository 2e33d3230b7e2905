"""Folders that are data sets already, a Decathlon task's or nnU-Net's: what is read, doubted and refused."""

import json

import numpy as np
import pytest

from nnunet_mamba.nnunet.splits import Fold
from nnunet_mamba.study.datasets.convert import convert_dataset
from nnunet_mamba.study.datasets.readers import read_source
from nnunet_mamba.study.datasets.splits import Split, draw_split

NAMES = tuple(f"made_{k}" for k in range(10))
EVERY_CASE = Split((Fold(NAMES[2:], NAMES[:2]),))


def change(folder, **values):
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_decathlon_task_is_told_in_nnunets_words(decathlon):
    source = read_source(decathlon)
    assert source.name == "Dataset007_Made"
    assert source.labels == {"background": 0, "front": 1, "back": 2}
    assert source.channel_names == {"0": "MRI"}
    assert source.labelled_names() == NAMES
    assert source.cases[3].images == (decathlon.resolve() / "imagesTr" / "made_3.nii.gz",)
    assert not source.issues


def test_another_folder_name_takes_the_name_in_the_file(decathlon):
    folder = decathlon.rename(decathlon.with_name("my_download"))
    change(folder, name="Liver and spleen")
    assert read_source(folder).name == "Dataset901_Liverandspleen"


def test_unlabelled_images_of_a_task_are_test_cases(decathlon, write_image):
    write_image(decathlon / "imagesTs" / "made_77.nii.gz", np.zeros((3, 4, 5), np.float32))
    source = read_source(decathlon)
    assert (source.cases[-1].name, source.cases[-1].role, source.cases[-1].labels) == ("made_77", "test", ())
    assert source.without_test().cases == source.cases[:-1]


def test_an_nnunet_dataset_keeps_its_name_regions_and_channels(nnunet_raw):
    source = read_source(nnunet_raw)
    assert source.name == "Dataset012_Two"
    assert [file.name for file in source.cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert source.label_values == {0, 1, 2}
    assert source.extra == {"regions_class_order": [1, 2]}
    assert not source.issues


def test_an_nnunet_dataset_is_taken_over_with_its_regions(nnunet_raw, tmp_path):
    source = read_source(nnunet_raw)
    split = draw_split(source.labelled_names(), n_unseen=1, n_validation=2, seed=0)
    raw = convert_dataset(source, tmp_path / "out" / "Dataset012_Two", split).folder
    assert json.loads((raw / "dataset.json").read_text())["regions_class_order"] == [1, 2]
    assert len(list((raw / "imagesTs").iterdir())) == 2
    assert [file.name for file in (raw / "labelsTs").iterdir()] == [f"{split.test[0]}.nii.gz"]
    assert len(list((raw / "imagesTr").iterdir())) == 10


def test_progress_is_told_case_by_case(decathlon, tmp_path):
    seen = []
    convert_dataset(
        read_source(decathlon),
        tmp_path / "Dataset007_Made",
        EVERY_CASE,
        progress=lambda *pair: seen.append(pair),
    )
    assert seen == [(k, 10) for k in range(1, 11)]


def test_the_description_is_nnunets_and_counts_the_training_cases(decathlon, tmp_path):
    split = Split((Fold(NAMES[4:], NAMES[2:4]),), test=NAMES[:2])
    raw = convert_dataset(read_source(decathlon), tmp_path / "Dataset007_Made", split).folder
    assert json.loads((raw / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "numTraining": 8,
        "file_ending": ".nii.gz",
        "nnunet_mamba": {"moved": ["made_0", "made_1"]},
    }


def test_hidden_files_of_macos_archives_are_no_cases(decathlon):
    for part in ("imagesTr", "labelsTr"):
        (decathlon / part / "._made_0.nii.gz").write_bytes(b"resource fork")
    source = read_source(decathlon)
    assert len(source.cases) == 10 and not source.issues


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"is not a dataset: it has no dataset\.json\. Give a Medical"):
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


def the_issue(folder) -> tuple[str, str | None, str]:
    (issue,) = read_source(folder).issues
    return issue.kind, issue.case, issue.message


def test_a_decathlon_case_without_its_label(decathlon):
    (decathlon / "labelsTr" / "made_4.nii.gz").unlink()
    kind, case, what = the_issue(decathlon)
    assert (kind, case) == ("missing", "made_4")
    assert "labelsTr/made_4.nii.gz is listed in" in what and "but missing" in what
    assert "made_4" not in read_source(decathlon).labelled_names()


def test_decathlon_files_that_the_list_does_not_name(decathlon, describe_decathlon):
    describe_decathlon(decathlon, list(NAMES[:9]))
    issues = read_source(decathlon).issues
    assert [(issue.kind, issue.case) for issue in issues] == [("missing", "made_9"), ("extra", "made_9")]
    assert all("is not in the training list of" in issue.message for issue in issues)


def test_an_nnunet_image_without_its_label_and_the_reverse(nnunet_raw):
    label = nnunet_raw / "labelsTr" / "c.nii.gz"
    label.rename(nnunet_raw / "labelsTr" / "z.nii.gz")
    source = read_source(nnunet_raw)
    assert [(issue.kind, issue.case) for issue in source.issues] == [("missing", "c"), ("extra", "z")]
    assert "c_0000.nii.gz has no label in" in source.issues[0].message
    assert "z.nii.gz has no image in" in source.issues[1].message
    assert source.labelled_names() == ("a", "b", "d", "e", "f")


def test_an_nnunet_case_that_lacks_a_channel(nnunet_raw):
    (nnunet_raw / "imagesTr" / "b_0001.nii.gz").unlink()
    kind, case, what = the_issue(nnunet_raw)
    assert (kind, case) == ("missing", "b")
    assert "should have the images b_0000.nii.gz, b_0001.nii.gz; it has b_0000.nii.gz" in what


def test_a_picture_holds_its_three_colours_in_one_file(tmp_path):
    folder = tmp_path / "Dataset013_Pictures"
    for part, name in (("imagesTr", "a_0000.png"), ("labelsTr", "a.png")):
        (folder / part).mkdir(parents=True)
        (folder / part / name).touch()
    colours = {str(k): colour for k, colour in enumerate("RGB")}
    description = {"channel_names": colours, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(description))
    source = read_source(folder)
    assert (source.labelled_names(), source.issues) == (("a",), ())


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
