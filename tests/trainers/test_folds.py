"""A fold is trained and validated as its split says, or refused."""

import json
from pathlib import Path

import pytest

from nnunet_mamba.nnunet.logs import read_split_sizes
from nnunet_mamba.trainers import nnUNetTrainerControl, nnUNetTrainerMMUNet
from nnunet_mamba.trainers.folds import check_preprocessed

PATIENTS = [f"patient{number // 2}_{'es' if number % 2 else 'ed'}" for number in range(10)]
TRAIN, VALIDATE = PATIENTS[:8], PATIENTS[8:]
MAKE = "nnunet-mamba plans split Dataset999_Tiny --name 5fold"


@pytest.fixture(params=[nnUNetTrainerMMUNet, nnUNetTrainerControl], ids=lambda one: one.__name__)
def make(request, make_trainer):
    """A function: a trainer of a fold, with the preprocessed cases of five patients and this split."""

    def make(fold, folds=None):
        trainer = make_trainer(request.param)
        trainer.fold = fold
        data = Path(trainer.preprocessed_dataset_folder)
        (data / "case.b2nd").unlink()
        for case in PATIENTS:
            (data / f"{case}.b2nd").touch()
        if folds is not None:
            text = json.dumps([{"train": train, "val": validate} for train, validate in folds])
            Path(trainer.preprocessed_dataset_folder_base, "splits_final.json").write_text(text)
        return trainer

    return make


def test_a_fold_of_the_split_is_taken_as_it_stands(make):
    assert make(1, [(VALIDATE, TRAIN), (TRAIN, VALIDATE)]).do_split() == (TRAIN, VALIDATE)


def test_the_log_tells_the_sizes_of_a_fold(make):
    trainer = make(0, [(TRAIN, VALIDATE)])
    assert read_split_sizes(Path(trainer.output_folder)) == []
    trainer.do_split()
    assert read_split_sizes(Path(trainer.output_folder)) == [(len(TRAIN), len(VALIDATE))]


@pytest.mark.parametrize("fold", [1, 4, -1])
def test_a_fold_that_the_split_lacks_is_refused(make, fold):
    """nnU-Net would draw 80:20 over images, or for -1 take the last fold."""
    trainer = make(fold, [(TRAIN, VALIDATE)])
    with pytest.raises(
        ValueError, match=rf"Fold {fold} was asked for, and .*splits_final.json has fold 0 alone.*{MAKE}"
    ):
        trainer.do_split()
    with pytest.raises(ValueError, match=f"Fold {fold} was asked for"):
        trainer.get_tr_and_val_datasets()


def test_without_a_split_there_are_five_folds_and_all(make):
    trainer = make(5)
    with pytest.raises(ValueError, match=rf"Fold 5 .*is not there yet\) has folds 0 to 4.*{MAKE}"):
        trainer.do_split()
    assert not Path(trainer.preprocessed_dataset_folder_base, "splits_final.json").exists()
    for fold in range(5):
        train, validate = make(fold).do_split()
        assert sorted([*train, *validate]) == sorted(PATIENTS)
    train, validate = make("all").do_split()
    assert sorted(train) == sorted(validate) == sorted(PATIENTS)


def test_fold_all_needs_no_fold_of_the_split(make):
    train, _ = make("all", [(TRAIN, VALIDATE)]).do_split()
    assert sorted(train) == sorted(PATIENTS)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        '{"train": [], "val": []}',
        '[{"train": ["a"]}]',
        '[{"train": "a", "val": "b"}]',
        "[1]",
    ],
)
def test_a_file_that_is_no_split_is_refused_by_name(make, content):
    trainer = make(0, [(TRAIN, VALIDATE)])
    Path(trainer.preprocessed_dataset_folder_base, "splits_final.json").write_text(content)
    with pytest.raises(ValueError, match=r"splits_final.json is not a split of nnU-Net; .*Make it anew"):
        trainer.do_split()


def test_a_trainer_with_a_split_of_its_own_is_validated_by_it(make):
    trainer = make(0, [(TRAIN, VALIDATE)])
    trainer.do_split = lambda: (TRAIN, VALIDATE[::-1])
    assert list(trainer._validated_cases()) == sorted(VALIDATE)


@pytest.mark.parametrize(("fold", "side"), [((TRAIN, []), "validation"), (([], VALIDATE), "training")])
def test_a_side_without_cases_is_refused(make, fold, side):
    with pytest.raises(ValueError, match=f"There are no {side} cases in fold 0 of .*splits_final.json"):
        make(0, [fold]).do_split()


def test_cases_that_were_not_preprocessed_are_named_before_the_training_begins(make):
    trainer = make(0, [([*TRAIN, "other_1", "other_2"], [*VALIDATE, "other_3"])])
    with pytest.raises(
        ValueError, match=r"3 cases of the split are not in .*: other_1, other_2, other_3\. Pre"
    ):
        trainer.get_tr_and_val_datasets()
    check_preprocessed(TRAIN, PATIENTS, "folder")
