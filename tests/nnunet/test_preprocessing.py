"""Settings that preprocessed data depend on, with what configurations inherit."""

import pytest

from nnunet_mamba.nnunet.preprocessing import get_configuration, select_preprocessing

PLANS = {
    "plans_name": "a",
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "3d_fullres": {"spacing": [1, 1, 1], "batch_size": 2, "data_identifier": "a_3d_fullres"},
        "child": {"inherits_from": "3d_fullres", "batch_size": 4},
        "grandchild": {"inherits_from": "child", "spacing": [2, 2, 2]},
    },
}


def test_a_configuration_has_what_it_inherits_and_overrides():
    found = get_configuration(PLANS, "grandchild")
    assert found["batch_size"] == 4 and found["spacing"] == [2, 2, 2]
    assert found["data_identifier"] == "a_3d_fullres"


def test_what_changes_no_voxel_does_not_count():
    assert select_preprocessing(PLANS, "child") == select_preprocessing(PLANS, "3d_fullres")
    assert select_preprocessing({**PLANS, "plans_name": "b"}, "child") == select_preprocessing(PLANS, "child")
    assert select_preprocessing(PLANS, "grandchild") != select_preprocessing(PLANS, "child")
    turned = {**PLANS, "transpose_forward": [2, 0, 1]}
    assert select_preprocessing(turned, "child") != select_preprocessing(PLANS, "child")


def test_a_configuration_that_was_not_planned_is_refused():
    with pytest.raises(
        ValueError, match="configuration 2d does not exist in the plans; they have 3d_fullres"
    ):
        get_configuration(PLANS, "2d")
    with pytest.raises(ValueError, match="they have none"):
        get_configuration({}, "2d")
