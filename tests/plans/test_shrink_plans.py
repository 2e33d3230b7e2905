"""Plans cut to a small budget."""

from copy import deepcopy
from math import prod

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.networks.default_sizes import default_features
from nnunet_mamba.plans import load_template, network_kwargs, shrink_plans
from nnunet_mamba.plans.apply import cut_to_budget

CPU = load_template("cpu")


@pytest.fixture
def hippocampus(make_plans) -> dict:
    """The configurations as nnU-Net plans them for the hippocampus task of the Decathlon."""
    plans = make_plans(n_stages=4, features=32, patch=(40, 56, 40))
    plans["configurations"]["2d"].update(patch_size=[56, 40], batch_size=277)
    plans["configurations"]["3d_fullres"].update(batch_size=9)
    for configuration in plans["configurations"].values():
        configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [32, 64, 128, 256]
    return plans


def resolved(plans: dict, name: str):
    return PlansManager(plans).get_configuration(name)


def test_hippocampus_becomes_the_small_plan_that_is_known_to_train_on_two_cores(hippocampus):
    small = resolved(shrink_plans(hippocampus, CPU), "3d_fullres")
    assert (small.patch_size, small.batch_size) == ([32, 40, 32], 2)
    kwargs = network_kwargs(small)
    assert kwargs["features_per_stage"] == (16, 32, 64, 128)
    assert kwargs["strides"] == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_features_double_up_to_those_of_the_budget(hippocampus):
    budget = {**CPU.budget["3d"], "base_features": 16, "max_features": 50}
    small = cut_to_budget(resolved(hippocampus, "3d_fullres").configuration, budget)
    assert small["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 50, 50]


def test_features_of_nnunet_double_up_to_512_in_slices_and_320_in_volumes():
    assert default_features(6, 2) == [32, 64, 128, 256, 512, 512]
    assert default_features(6, 3) == [32, 64, 128, 256, 320, 320]


def test_shrinking_twice_equals_shrinking_once(hippocampus):
    once = shrink_plans(hippocampus, CPU)
    assert once != hippocampus
    assert shrink_plans(once, CPU) == once


def test_the_given_plans_are_left_as_they_were(hippocampus):
    before = deepcopy(hippocampus)
    shrink_plans(hippocampus, CPU)
    assert hippocampus == before


def test_what_preprocessing_depends_on_is_kept(hippocampus):
    small, large = shrink_plans(hippocampus, CPU)["configurations"], hippocampus["configurations"]
    for name in large:
        for key in set(large[name]) - {"patch_size", "batch_size", "architecture"}:
            assert small[name][key] == large[name][key]


PLANS = {  # spacing, patch: real plans of nnU-Net for anisotropic, isotropic, thin and flat data
    "cine cardiac": ((6.35, 1.52, 1.52), (14, 256, 224)),
    "abdomen": ((3.0, 0.76, 0.76), (48, 192, 192)),
    "brain": ((1.0, 1.0, 1.0), (128, 128, 128)),
    "thin": ((5.0, 0.7, 0.7), (4, 512, 512)),
    "slices": ((0.7, 0.7), (512, 512)),
}


@pytest.mark.parametrize(("spacing", "patch"), PLANS.values(), ids=PLANS)
def test_every_plan_fits_the_budget_and_its_own_strides(make_plans, spacing, patch):
    name = "2d" if len(patch) == 2 else "3d_fullres"
    plans = make_plans(n_stages=7)
    plans["configurations"][name].update(spacing=list(spacing), patch_size=list(patch))
    small = resolved(shrink_plans(plans, CPU), name)
    assert prod(small.patch_size) <= CPU.budget[f"{len(patch)}d"]["max_patch_vox"]
    assert all(size <= original for size, original in zip(small.patch_size, patch, strict=True))
    total_stride = [prod(axis) for axis in zip(*small.pool_op_kernel_sizes, strict=True)]
    assert all(size % stride == 0 for size, stride in zip(small.patch_size, total_stride, strict=True))
    kwargs = network_kwargs(small)  # raises for lengths that disagree
    assert len(kwargs["strides"]) == len(kwargs["features_per_stage"]) >= 2


def test_an_isotropic_patch_stays_nearly_a_cube(make_plans):
    plans = make_plans(n_stages=6, patch=(128, 128, 128))
    plans["configurations"]["2d"]["patch_size"] = [128, 128]
    patch = resolved(shrink_plans(plans, CPU), "3d_fullres").patch_size
    assert max(patch) <= 1.5 * min(patch)


def test_a_plan_within_the_budget_does_not_grow(make_plans):
    plans = make_plans(n_stages=3)
    assert shrink_plans(plans, CPU) == plans


def test_a_plan_made_shallow_by_hand_does_not_become_deeper(make_plans):
    """By nnU-Net's rule 16 voxels per axis make 3 stages."""
    plans = make_plans(n_stages=2, patch=(16, 16, 16))
    plans["configurations"]["2d"]["patch_size"] = [16, 16]
    assert len(network_kwargs(resolved(shrink_plans(plans, CPU), "3d_fullres"))["strides"]) == 2


def test_a_residual_plan_keeps_the_depth_of_the_stages_that_remain(make_plans):
    plans = make_plans(n_stages=6, patch=(128, 128, 128))
    plans["configurations"]["2d"]["patch_size"] = [128, 128]
    arch = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    del arch["n_conv_per_stage"]
    arch.update(n_blocks_per_stage=[1, 3, 4, 6, 6, 6], n_conv_per_stage_decoder=[1] * 5)
    small = network_kwargs(resolved(shrink_plans(plans, CPU), "3d_fullres"))
    assert small["n_blocks_per_stage"] == (1, 3, 4, 6)
    assert small["n_conv_per_stage_decoder"] == (1, 1, 1)


def test_the_cascade_shrinks_in_both_stages(hippocampus):
    full = hippocampus["configurations"]["3d_fullres"]
    lowres = {**deepcopy(full), "spacing": [2.0, 2.0, 2.0], "next_stage": "3d_cascade_fullres"}
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    hippocampus["configurations"].update({"3d_lowres": lowres, "3d_cascade_fullres": cascade})
    small = shrink_plans(hippocampus, CPU)
    assert small["configurations"]["3d_cascade_fullres"] == cascade  # goes on inheriting
    assert resolved(small, "3d_cascade_fullres").patch_size == [32, 40, 32]
    assert resolved(small, "3d_lowres").patch_size == [32, 40, 32]
    assert resolved(small, "3d_lowres").next_stage_names == ["3d_cascade_fullres"]


def test_a_configuration_that_inherits_but_sets_its_own_batch_is_cut_too(hippocampus):
    hippocampus["configurations"]["3d_large"] = {"inherits_from": "3d_fullres", "batch_size": 16}
    small = resolved(shrink_plans(hippocampus, CPU), "3d_large")
    assert (small.batch_size, small.patch_size) == (2, [32, 40, 32])


def test_an_unknown_template_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown plans template 'tiny'. Choose one of cpu, "):
        load_template("tiny")
