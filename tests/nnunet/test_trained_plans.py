"""Plans and dataset.json of a trained folder: what a prediction reads is there, or is named."""

import json
from copy import deepcopy

import pytest
from tiny_models import managers, tiny_dataset, tiny_plans

from nnunet_mamba.nnunet.trained_plans import (
    INTENSITIES,
    READ,
    READ_FOR_CT,
    READ_OF_ALL,
    check_readable_plans,
    read_trained_dataset,
)

STATISTICS = INTENSITIES[0]
OWN = "configurations.c."
NEEDED = [
    *READ_OF_ALL,
    *(OWN + key for key in (*READ, "architecture")),
    *(STATISTICS, f"{STATISTICS}.1", *(f"{STATISTICS}.0.{key}" for key in READ_FOR_CT)),
]


def ct_plans():
    plans = tiny_plans(n_channels=2)
    plans["configurations"]["c"]["normalization_schemes"] = ["CTNormalization", "ZScoreNormalization"]
    return plans


def check(plans, folder, configuration="c"):
    """Write plans, a text or not, to a file in the folder, and check it."""
    (folder / "plans.json").write_text(plans if isinstance(plans, str) else json.dumps(plans))
    check_readable_plans(folder / "plans.json", configuration)


def without(plans, path):
    plans = deepcopy(plans)
    *parents, last = path.split(".")
    place = plans
    for key in parents:
        place = place[key]
    del place[last]
    return plans


@pytest.mark.parametrize("path", NEEDED)
def test_a_key_that_plans_lack_is_named_with_their_file(tmp_path, path):
    with pytest.raises(ValueError, match=rf"plans\.json lacks {path}\. nnU-Net .*: take the plans\.json"):
        check(without(ct_plans(), path), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"), [('{"configurations": ', "cannot be read"), ("[]", "holds no plans")]
)
def test_what_is_no_plans_is_named(tmp_path, text, said):
    with pytest.raises(ValueError, match=rf"plans\.json {said}.*take the plans\.json that"):
        check(text, tmp_path)


def test_a_configuration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"plans\.json lacks the configuration 2d\. nnU-Net"):
        check(ct_plans(), tmp_path, "2d")


def test_a_cascades_second_stage_reads_how_labels_are_resampled(tmp_path):
    plans = without(ct_plans(), f"{OWN}resampling_fn_seg")
    check(plans, tmp_path)
    plans["configurations"]["c"]["previous_stage"] = "3d_lowres"
    with pytest.raises(ValueError, match=rf"lacks {OWN}resampling_fn_seg\."):
        check(plans, tmp_path)


def test_values_that_are_null_are_as_if_they_were_not_there(tmp_path):
    with pytest.raises(ValueError, match=rf"lacks {STATISTICS}\.0\.mean"):
        check({**ct_plans(), STATISTICS: {"0": None, "1": {}}}, tmp_path)


def test_what_is_inherited_is_there_and_old_words_count(tmp_path):
    plans = ct_plans()
    plans["configurations"]["d"] = {"inherits_from": "c"}
    check(plans, tmp_path, "d")
    old = without({**plans, INTENSITIES[1]: plans[STATISTICS]}, STATISTICS)
    old["configurations"]["c"]["UNet_class_name"] = "PlainConvUNet"
    check(without(old, f"{OWN}architecture"), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file_ending": None}, "lacks file_ending"),
        ({"labels": None}, "lacks labels"),
        ({"channel_names": None}, "lacks channel_names"),
        ({"labels": {"1": "liver"}}, "label '1' is 'liver'"),
        ({"labels": {"liver": 1}}, "lacks labels: background"),
        ({"labels": {"background": 0, "liver": [1, 2]}}, "lacks regions_class_order"),
    ],
)
def test_what_dataset_json_lacks_is_named_with_the_file(tmp_path, change, said):
    changed = {key: value for key, value in {**tiny_dataset(), **change}.items() if value is not None}
    (tmp_path / "dataset.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=rf"dataset\.json .*{said}"):
        read_trained_dataset(tmp_path / "dataset.json")


def test_nothing_else_of_plans_is_read(tmp_path):
    """nnU-Net's managers, which prediction asks, answer by the keys that are checked."""
    plans = ct_plans()
    own = {key: plans["configurations"]["c"][key] for key in (*READ, "architecture")}
    few = {key: plans[key] for key in (*READ_OF_ALL, STATISTICS)} | {"configurations": {"c": own}}
    check(few, tmp_path)
    manager, configuration = managers(few)
    assert manager.get_label_manager(tiny_dataset()).num_segmentation_heads > 1
    assert configuration.resampling_fn_data and configuration.resampling_fn_probabilities
