"""Channels by number and labels by name, wherever a dataset.json comes in or goes out."""

import json

import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.nnunet.dataset_json import check_labels, sort_channels
from nnunet_mamba.study.datasets.readers import read_source

SWAPPED = {"10": "T2", "1": "T1", "0": "FLAIR", "2": "PD"}


def test_channels_are_sorted_by_number_and_not_by_text():
    assert list(sort_channels(SWAPPED, "here").items()) == [
        ("0", "FLAIR"), ("1", "T1"), ("2", "PD"), ("10", "T2"),
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [{"T1": 0}, {"0": "T1", "00": "T2"}, ["T1"], None, {"one": "T1"}])
def test_channels_that_are_not_numbered_are_refused(channels):
    with pytest.raises(ValueError, match="The channels in here are"):
        sort_channels(channels, "here")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "background", "1": "liver"}, "nnU-Net v1 mapped value to name: swap them"),
        ({"background": "0"}, "label 'background' is '0'; expected"),
        ({"background": 0, "whole": [1, "2"]}, "label 'whole' is '2'; expected"),
        (["background"], "The labels in here are"),
        (None, "The labels in here are"),
    ],
)
def test_labels_that_are_not_nnunets_are_refused_in_words(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, "here")


def change(folder, **content):
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **content}))


def test_a_raw_dataset_is_read_with_its_channels_in_order(nnunet_raw):
    change(nnunet_raw, channel_names={"1": "T2", "0": "T1"})
    assert list(read_source(nnunet_raw).channel_names.items()) == [("0", "T1"), ("1", "T2")]


def test_a_task_of_the_decathlon_likewise(decathlon):
    change(decathlon, modality={"1": "T2", "0": "T1"})
    assert list(read_source(decathlon).channel_names.items()) == [("0", "T1"), ("1", "T2")]


def test_a_new_split_writes_the_channels_in_order(nnunet_raw, nnunet_folders):
    change(nnunet_raw, channel_names={"1": "T2", "0": "T1"})
    folder = nnunet_raw.rename(nnunet_folders.raw / nnunet_raw.name)
    assert main(["plans", "split", "12", "--name", "5fold"]) == 0
    assert list(json.loads((folder / "dataset.json").read_text())["channel_names"]) == ["0", "1"]


def test_labels_of_the_first_nnunet_are_refused_in_words(nnunet_raw, nnunet_folders, capsys):
    change(nnunet_raw, labels={"0": "background", "1": "whole"})
    with pytest.raises(ValueError, match=r"dataset.json the label '0' is 'background'.*swap them"):
        read_source(nnunet_raw)


def test_a_list_of_the_decathlon_that_was_cut_is_a_fault(decathlon):
    """With the files of the case gone, only the number tells."""
    description = json.loads((decathlon / "dataset.json").read_text())
    lost = description["training"].pop()
    for file in lost.values():
        (decathlon / file).unlink()
    change(decathlon, training=description["training"], numTraining=10)
    (issue,) = read_source(decathlon).issues
    assert issue.kind == "missing" and "counts 10 training cases, but 9 are there" in issue.message


def test_cases_that_numtraining_counts_and_nobody_has_are_a_fault(nnunet_raw):
    for file in nnunet_raw.glob("*Tr/c*"):
        file.unlink()
    (issue,) = read_source(nnunet_raw).issues
    assert issue.kind == "missing" and "counts 6 training cases, but 5 are there" in issue.message


def test_a_case_that_vanished_is_a_fault_of_a_new_split_too(nnunet_raw, nnunet_folders, capsys):
    folder = nnunet_raw.rename(nnunet_folders.raw / nnunet_raw.name)
    for file in folder.glob("*Tr/c*"):
        file.unlink()
    assert main(["plans", "split", "12", "--name", "5fold"]) == 2
    assert "counts 6 training cases, but 5 are there" in capsys.readouterr().err
    assert not (folder / "splits_final.json").exists()


def test_labels_of_v2_in_a_task_of_the_decathlon_are_refused_in_words(decathlon):
    change(decathlon, labels={"background": 0, "front": 1})
    with pytest.raises(ValueError, match="have 'background' where a Decathlon task has a number"):
        read_source(decathlon)
