"""Numbers of cases on the card: only those that the trained folder vouches for are said without reserve."""

import json
import os

import pytest

from nnunet_mamba.sharing.export_model import export_model

SPLITS = [{"train": ["secret_1", "secret_2", "secret_3"], "val": ["secret_4", "secret_5"]}]
DAY = 1_700_000_000  # 2023-11-14


def write_splits(place, trained, splits=SPLITS):
    file = place / trained.folder.parent.name / "splits_final.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(splits))
    os.utime(file, (DAY, DAY))
    return file


def write_log(trained, *sizes, word="This split"):
    for number, (n_train, n_val) in enumerate(sizes):
        text = f"2023-11-14 10:00:00.1: {word} has {n_train} training and {n_val} validation cases.\n"
        (trained.folder / "fold_0" / f"training_log_2023_11_{number}.txt").write_text(text * 2)


def write_summary(trained, *cases, folder="C:\\data\\"):
    files = [{"prediction_file": f"{folder}secret_{case}.nii.gz", "metrics": {}} for case in cases]
    place = trained.folder / "fold_0" / "validation"
    place.mkdir()
    (place / "summary.json").write_text(json.dumps({"foreground_mean": {}, "metric_per_case": files}))


@pytest.fixture
def split_row(trained, tmp_path):
    """A function: what the card says of fold 0's split."""

    def export(folds=("0",), checkpoint="checkpoint_final.pth"):
        export_model(trained.folder, tmp_path / "export", folds=folds, checkpoint=checkpoint)
        for file in (tmp_path / "export").iterdir():
            assert b"secret" not in file.read_bytes()
        rows = (tmp_path / "export" / "README.md").read_text().splitlines()
        return next(row for row in rows if row.startswith("| split")).strip("| ").split("|")[1].strip()

    return export


@pytest.mark.parametrize(
    ("sizes", "validated", "said"),
    [
        ([], "45", "3 cases trained on, 2 validated"),
        ([], "46", "2 cases validated, others than those of splits_final.json of 2023-11-14: the split has "),
        ([], "456", "3 cases validated, others than those of splits_final.json of 2023-11-14"),
        ([], "4", "1 case validated, of 2 by splits_final.json of 2023-11-14, which has 3 cases to train on"),
        ([], None, "3 cases to train on, 2 to validate by splits_final.json of 2023-11-14; not checked"),
        ([(80, 20)], None, "80 cases trained on, 20 to validate; the fold has no"),
        ([(80, 2)], "67", "80 cases trained on, 2 validated"),
        ([(80, 20)], "67", "80 cases trained on, 2 of 20 validated"),
        ([(80, 1)], "67", "80 cases trained on, 1 to validate; later 2 by another split"),
        ([(80, 20), (80, 20)], None, "80 cases trained on, 20 to validate; the fold has no"),
        ([(81, 19), (80, 20)], "67", "80 and 20 or 81 and 19 cases trained on and validated: its logs tell"),
    ],
)
def test_the_card_says_how_far_a_split_is_known(trained, nnunet_folders, split_row, sizes, validated, said):
    write_splits(nnunet_folders.preprocessed, trained)
    write_log(trained, *sizes)
    if validated is not None:
        write_summary(trained, *validated)
    assert split_row().startswith(f"fold 0: {said}")


def test_without_a_split_the_trained_folder_tells(trained, nnunet_folders, split_row):
    write_summary(trained, 4, 5, folder="/data/")
    assert split_row().startswith("fold 0: 2 cases validated; the number trained on is not known")


def test_a_random_split_of_nnunets_is_told_by_its_log(trained, split_row):
    write_log(trained, (80, 20), word="This random 80:20 split")
    assert split_row() == ("fold 0: 80 cases trained on, 20 to validate; the fold has no finished validation")


def test_a_fold_that_the_split_of_today_lacks_is_not_known(trained, nnunet_folders, split_row):
    write_splits(nnunet_folders.preprocessed, trained)
    assert split_row(["1"]).startswith("fold 1: not known")


def test_fold_all_needs_no_split(trained, split_row):
    assert split_row(["all"], "checkpoint_best.pth") == "fold all: every case trained on"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metric_per_case": [{"prediction_file": 1}]}'])
def test_a_summary_that_is_none_is_no_evidence(trained, nnunet_folders, split_row, text):
    write_splits(nnunet_folders.preprocessed, trained)
    write_summary(trained)
    (trained.folder / "fold_0" / "validation" / "summary.json").write_text(text)
    assert "not checked, the fold has no finished validation" in split_row()


def test_the_split_that_nnunet_trains_by_comes_before_the_raw_one(trained, nnunet_folders, split_row):
    write_splits(nnunet_folders.raw, trained, [{"train": [], "val": []}])
    write_splits(nnunet_folders.preprocessed, trained)
    assert split_row().startswith("fold 0: 3 cases to train on")


def test_a_split_that_is_none_is_refused(trained, nnunet_folders, tmp_path):
    write_splits(nnunet_folders.preprocessed, trained, [{"train": []}])
    with pytest.raises(ValueError, match="is not a split of nnU-Net"):
        export_model(trained.folder, tmp_path / "export")
    assert not (tmp_path / "export").exists()
