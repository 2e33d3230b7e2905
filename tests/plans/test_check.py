"""Whether plans are sound, and which networks fit them."""

from copy import deepcopy

import pytest

from nnunet_mamba import list_networks
from nnunet_mamba.memory.profile import load_profile
from nnunet_mamba.plans.architecture import replace_network
from nnunet_mamba.plans.check import check_networks, find_issues, target_grids
from nnunet_mamba.plans.files import resolve


@pytest.fixture
def plans(make_plans) -> dict:
    return make_plans(n_stages=3, patch=(16, 32, 32)) | {"plans_name": "mine"}


def fullres(plans: dict) -> dict:
    return plans["configurations"]["3d_fullres"]


def kwargs(plans: dict) -> dict:
    return fullres(plans)["architecture"]["arch_kwargs"]


@pytest.fixture
def three_dimensional(plans) -> dict:
    del plans["configurations"]["2d"]
    return plans


def test_sound_plans_have_no_fault(three_dimensional):
    assert find_issues(three_dimensional, "mine") == []


def break_ct(plans):
    fullres(plans)["normalization_schemes"] = ["CTNormalization"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda p: p.update(plans_name="yours"), "plans_name is 'yours'"),
        (lambda p: p["configurations"].update({"3d__x": fullres(p)}), "'3d__x' has a double underscore"),
        (lambda p: fullres(p).pop("data_identifier"), "it has no data_identifier"),
        (
            lambda p: fullres(p).update(patch_size=[16, 32, 30]),
            r"not divisible by the total stride \[4, 4, 4\]",
        ),
        (
            lambda p: kwargs(p).update(kernel_sizes=[[3, 3, 3]] * 2),
            "strides have 3 stages, but {'kernel_sizes': 2}",
        ),
        (lambda p: kwargs(p).update(n_stages=4), "strides have 3 stages, but {'n_stages': 4}"),
        (lambda p: kwargs(p).pop("strides"), "has no strides"),
        (lambda p: kwargs(p).update(strides=[[1, 1], [2, 2], [2, 2]]), "not all of the 3 axes"),
        (lambda p: fullres(p).update(spacing=[1.0, 1.0]), "differ in axes"),
        (break_ct, "channel 0 has CTNormalization, but the plans have no"),
        (lambda p: fullres(p).update(inherits_from="4d"), "3d_fullres of the plans cannot be resolved"),
    ],
)
def test_each_fault_is_found_alone(three_dimensional, spoil, complaint):
    import re

    spoil(three_dimensional)
    found = find_issues(three_dimensional, "mine")
    assert len(found) == 1
    assert re.search(complaint if "\\" in complaint else re.escape(complaint), found[0])


def test_intensity_properties_make_ct_sound(three_dimensional):
    break_ct(three_dimensional)
    three_dimensional["foreground_intensity_properties_per_channel"] = {"0": {"mean": 1.0}}
    assert find_issues(three_dimensional, "mine") == []
    fullres(three_dimensional)["normalization_schemes"] *= 2
    (issue,) = find_issues(three_dimensional, "mine")
    assert "channel 1 has CTNormalization" in issue  # each channel needs its own


def checked(plans: dict, configuration: str, networks: list[str] | None = None) -> dict:
    found = check_networks(resolve(plans, configuration), 1, 3, load_profile("cuda"), networks)
    return {row.network.rsplit(".", 1)[-1]: row for row in found}


def test_the_plans_own_network_comes_first_and_equals_ours(plans):
    found = checked(plans, "3d_fullres", ["nnunet", "mm_unet", "vm_unet"])
    assert list(found) == ["PlainConvUNet", "nnunet", "mm_unet", "vm_unet"]
    assert found["PlainConvUNet"].parameters == found["nnunet"].parameters > 0
    assert found["PlainConvUNet"].memory_bytes == pytest.approx(found["nnunet"].memory_bytes, rel=0.1)
    assert "This network works in 2D" in found["vm_unet"].error


def test_a_network_of_ours_in_the_plans_is_checked_once(plans):
    own = fullres(plans)
    name = "umamba_enc_nossm"
    own["architecture"] = replace_network(own["architecture"], name, own["patch_size"])
    assert list(checked(plans, "3d_fullres", ["nnunet", name])) == [name, "nnunet"]
    assert list(checked(plans, "3d_fullres", [name])) == [name]


def test_all_networks_are_tried_by_default(plans):
    wanted = check_networks(resolve(plans, "3d_fullres"), 1, 3, load_profile("cuda"))
    first = next(wanted)
    assert first.network.endswith("PlainConvUNet")
    assert len(list_networks()) > 20  # the rest is not simulated here, for it takes half a minute


NAMED = ["mm_unet", "swin_umamba_d", "vm_unet"]
NAMED += [pytest.param(name, marks=pytest.mark.slow) for name in ("mamba_bi", "swin_umamba", "mamba_unet")]


@pytest.mark.parametrize("name", NAMED)
def test_every_networks_outputs_are_what_nnunet_supervises(plans, name):
    """nnU-Net takes the resolutions from the strides of the plans, also where a network brings its own."""
    own = plans["configurations"]["2d"]
    own.update(patch_size=[64, 64])
    own["architecture"] = replace_network(own["architecture"], name, own["patch_size"])
    row = checked(plans, "2d", [name])[name]
    assert row.error == ""
    assert row.n_outputs == len(target_grids(name, own))


def test_strides_that_are_not_those_of_the_outputs_are_refused(plans):
    own = plans["configurations"]["2d"]
    own.update(patch_size=[64, 64])
    own["architecture"] = replace_network(own["architecture"], "swin_umamba", own["patch_size"])
    own["architecture"]["arch_kwargs"]["strides"] = [[2, 2]] * 5  # the network's, half a step too far
    assert "Its outputs have the grids" in checked(plans, "2d", ["swin_umamba"])["swin_umamba"].error


def test_a_foreign_network_that_cannot_run_is_a_row_and_no_crash(plans):
    """The fixture's 2d has a patch of three axes."""
    assert "conv2d" in checked(plans, "2d", [])["PlainConvUNet"].error


def test_the_plans_are_left_as_they_were(plans):
    before = deepcopy(plans)
    checked(plans, "3d_fullres", ["mm_unet"])
    assert plans == before
