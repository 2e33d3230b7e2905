"""From plans to the arguments of a network."""

from copy import deepcopy

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.plans import network_kwargs
from nnunet_mamba.plans.architecture import count_outputs


def kwargs_of(plans: dict) -> dict:
    return network_kwargs(PlansManager(plans).get_configuration("3d_fullres"))


def arch(plans: dict) -> dict:
    return plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]


def test_sizes_of_a_plain_u_net_are_handed_over(make_plans):
    assert kwargs_of(make_plans(n_stages=3)) == {
        "features_per_stage": (4, 8, 16),
        "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((3, 3, 3),) * 3,
        "n_conv_per_stage": (2, 2, 2),
        "n_conv_per_stage_decoder": (2, 2),
        "patch_size": (16, 16, 16),
    }


def test_a_residual_encoder_plan_hands_over_its_blocks(make_plans):
    plans = make_plans(n_stages=3)
    arch(plans)["n_blocks_per_stage"] = [1, 3, 4]
    del arch(plans)["n_conv_per_stage"]
    kwargs = kwargs_of(plans)
    assert kwargs["n_blocks_per_stage"] == (1, 3, 4)
    assert "n_conv_per_stage" not in kwargs


def test_one_number_for_all_stages_stays_one_number(make_plans):
    plans = make_plans()
    arch(plans)["n_conv_per_stage"] = 2
    assert kwargs_of(plans)["n_conv_per_stage"] == 2


def test_the_plans_are_left_as_they_were(make_plans):
    plans = make_plans()
    before = deepcopy(plans)
    kwargs_of(plans)
    assert plans == before


@pytest.mark.parametrize("key", ["strides", "kernel_sizes", "features_per_stage", "n_conv_per_stage"])
def test_a_plan_without_sizes_is_refused_with_the_missing_key(make_plans, key):
    plans = make_plans()
    del arch(plans)[key]
    with pytest.raises(ValueError, match=rf"has no .*{key}.*ResEnc planners"):
        kwargs_of(plans)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_op", "torch.nn.modules.batchnorm.BatchNorm3d"),
        ("norm_op", None),
        ("norm_op_kwargs", {"eps": 1e-5, "affine": False}),
        ("nonlin", "torch.nn.ReLU"),
        ("nonlin_kwargs", {"negative_slope": 0.2}),
        ("dropout_op", "torch.nn.Dropout3d"),
        ("conv_bias", False),
        ("squeeze_excitation", True),
        ("stochastic_depth_p", 0.1),
    ],
)
def test_a_plan_whose_wishes_would_be_ignored_is_refused(make_plans, key, value):
    plans = make_plans()
    arch(plans)[key] = value
    with pytest.raises(ValueError, match=f"asks for {key} = .*would ignore"):
        kwargs_of(plans)


def test_a_patch_that_the_architecture_contradicts_is_refused(make_plans):
    plans = make_plans(n_stages=3)
    arch(plans)["patch_size"] = [16, 16, 16]
    assert kwargs_of(plans)["patch_size"] == (16, 16, 16)
    arch(plans)["patch_size"] = [16, 16, 32]
    with pytest.raises(ValueError, match=r"patch_size is \[16, 16, 16\], but in .* it is \[16, 16, 32\]"):
        kwargs_of(plans)


@pytest.mark.parametrize(("key", "expected"), [("kernel_sizes", 3), ("n_conv_per_stage_decoder", 2)])
def test_a_plan_with_one_entry_too_few_is_refused(make_plans, key, expected):
    plans = make_plans(n_stages=3)
    arch(plans)[key] = arch(plans)[key][:-1]
    with pytest.raises(ValueError, match=rf"{key} has {expected - 1} entries.*expected {expected}"):
        kwargs_of(plans)


@pytest.mark.parametrize(
    ("network", "n_stages", "expected"),
    [("mm_unet", 6, 3), ("mm_unet", 3, 2), ("umamba_enc", 6, 5), ("nnunet", 2, 1), ("swin_umamba", 3, 4)],
)
def test_a_network_puts_out_no_more_resolutions_than_its_plan_has_above_the_bottleneck(
    network, n_stages, expected
):
    """Three of MM-UNet, where there are three; a network of its own topology has its own."""
    assert count_outputs(network, n_stages) == expected
