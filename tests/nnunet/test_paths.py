"""Names and folders of nnU-Net's results."""

import pytest

from nnunet_mamba.nnunet.paths import find_folds, parse_method


def test_the_name_of_a_method_has_three_parts():
    model = parse_method("nnUNetTrainerMMUNet__nnUNetPlans__3d_fullres")
    assert model == ("nnUNetTrainerMMUNet", "nnUNetPlans", "3d_fullres")
    assert str(model) == "nnUNetTrainerMMUNet__nnUNetPlans__3d_fullres"


def test_a_trained_network_may_be_validated_under_conditions():
    trained = parse_method("nnUNetTrainerMMUNet_5epochs__nnUNetPlans__2d")
    noisy = parse_method("nnUNetTrainerMMUNet_5epochs@noise10__nnUNetPlans__2d")
    assert (trained.condition, noisy.condition) == ("", "noise10")
    assert noisy.trained == trained == trained.trained and trained.under("noise10") == noisy
    assert noisy.under("no_flips").trainer == "nnUNetTrainerMMUNet_5epochs@no_flips"


@pytest.mark.parametrize("name", ["", "ensembles", "a__b", "a__b__c__d"])
def test_other_names_are_none(name):
    assert parse_method(name) is None


def test_folds_are_found_in_order_and_nothing_else(tmp_path):
    for folder in (
        "T__P__2d/fold_1",
        "T__P__2d/fold_all",
        "S__P__2d/fold_0",
        "T__P__2d/crossval",
        "x/fold_0",
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "A__B__C__D" / "fold_0").mkdir(parents=True)
    assert [(folder.name, model.trainer, fold) for folder, model, fold in find_folds(tmp_path)] == [
        ("fold_0", "S", "0"),
        ("fold_1", "T", "1"),
        ("fold_all", "T", "all"),
    ]
