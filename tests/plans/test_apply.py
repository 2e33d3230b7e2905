"""Templates over a dataset's own plans."""

import json
from copy import deepcopy
from math import prod

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba import create_network
from nnunet_mamba.memory.profile import load_profile
from nnunet_mamba.plans import load_template, network_kwargs, shrink_plans
from nnunet_mamba.plans.apply import ConfigurationChange, apply_template, fit_to_memory
from nnunet_mamba.plans.check import find_issues
from nnunet_mamba.plans.files import write_plans
from nnunet_mamba.plans.memory import StepMemory

KEPT = {
    "data_identifier",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "median_image_size_in_voxels",
    "batch_dice",
    "preprocessor_name",
}


@pytest.fixture
def abdomen(make_plans) -> dict:
    """Plans of 3D CT with a cascade, as nnU-Net names its configurations."""
    plans = make_plans(n_stages=6, patch=(64, 160, 160), features=32)
    own = plans["configurations"]
    own["2d"].update(patch_size=[512, 512], spacing=[0.8, 0.8], median_image_size_in_voxels=[512, 512])
    own["3d_fullres"].update(spacing=[2.5, 0.8, 0.8], median_image_size_in_voxels=[97.0, 512.0, 512.0])
    lowres = {**deepcopy(own["3d_fullres"]), "data_identifier": "nnUNetPlans_3d_lowres"}
    own["3d_lowres"] = {**lowres, "next_stage": "3d_cascade_fullres"}
    own["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return plans


def overlaid(plans: dict, template: str, **options) -> dict:
    return apply_template(plans, load_template(template), "new_plans", **options).plans


def resolved(plans: dict, name: str) -> dict:
    return PlansManager(plans).get_configuration(name).configuration


def test_the_papers_sizes_are_laid_over_and_all_else_stays(abdomen):
    before = deepcopy(abdomen)
    plans = overlaid(abdomen, "umamba_abdomen_ct")
    found, own = resolved(plans, "3d_fullres"), resolved(abdomen, "3d_fullres")
    assert (found["patch_size"], found["batch_size"]) == ([40, 224, 192], 2)
    kwargs = found["architecture"]["arch_kwargs"]
    assert kwargs["strides"][1] == [1, 2, 2]
    assert (kwargs["n_stages"], kwargs["n_conv_per_stage_decoder"]) == (6, [2] * 5)
    assert {key: found[key] for key in KEPT} == {key: own[key] for key in KEPT}
    assert found["architecture"]["network_class_name"] == own["architecture"]["network_class_name"]
    assert abdomen == before


def test_what_a_template_does_not_touch_stays_as_planned(abdomen):
    plans = overlaid(abdomen, "umamba_abdomen_ct")
    for name in ("2d", "3d_lowres"):
        assert resolved(plans, name) == resolved(abdomen, name)
    assert resolved(plans, "3d_fullres_planned") == resolved(abdomen, "3d_fullres")


def test_the_cascade_goes_on_from_the_new_configuration(abdomen):
    cascade = resolved(overlaid(abdomen, "umamba_abdomen_ct"), "3d_cascade_fullres")
    assert cascade["patch_size"] == [40, 224, 192]
    assert (cascade["previous_stage"], cascade["data_identifier"]) == ("3d_lowres", "nnUNetPlans_3d")


def test_a_template_over_a_template_keeps_the_plan_of_nnunet(abdomen):
    once = overlaid(abdomen, "umamba_abdomen_ct")
    twice = overlaid(once, "taming_synapse")
    assert resolved(twice, "3d_fullres")["patch_size"] == [48, 192, 192]
    assert resolved(twice, "3d_fullres_planned") == resolved(abdomen, "3d_fullres")


def test_strides_and_kernels_of_a_template_hold_whatever_the_spacing(abdomen):
    """By nnU-Net's rule isotropic voxels would be pooled along all axes at once."""
    abdomen["configurations"]["3d_fullres"]["spacing"] = [0.8, 0.8, 0.8]
    kwargs = resolved(overlaid(abdomen, "umamba_abdomen_ct"), "3d_fullres")["architecture"]["arch_kwargs"]
    pinned = load_template("umamba_abdomen_ct").configurations["3d_fullres"]
    assert kwargs["strides"][:2] == [[1, 1, 1], [1, 2, 2]]
    assert {key: kwargs[key] for key in ("strides", "kernel_sizes")} == {
        key: pinned[key] for key in ("strides", "kernel_sizes")
    }


def test_the_budget_gives_the_plans_of_the_demo(abdomen):
    abdomen["configurations"]["3d_fullres"]["batch_size"] = 9
    plans, small = overlaid(abdomen, "cpu"), shrink_plans(abdomen, load_template("cpu"))
    for name in small["configurations"]:
        demo, found = resolved(small, name), resolved(plans, name)
        demo.pop("inherits_from", None)
        found.pop("inherits_from", None)
        assert found == demo


def test_a_batch_alone_leaves_patch_and_topology(abdomen):
    abdomen["configurations"]["3d_fullres"]["batch_size"] = 7
    found, own = (resolved(p, "3d_fullres") for p in (overlaid(abdomen, "mm_unet_amos"), abdomen))
    assert (found["batch_size"], found["patch_size"]) == (2, own["patch_size"])
    assert found["architecture"] == own["architecture"]


def test_a_patch_alone_has_nnunets_topology(abdomen):
    kwargs = resolved(overlaid(abdomen, "vm_unet_synapse"), "2d")["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1], *[[2, 2]] * 5]  # 224 = 7 * 2^5
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 512, 512]


def test_a_network_is_named_with_all_that_builds_it(abdomen):
    found = resolved(overlaid(abdomen, "umamba_abdomen_ct", network="umamba_enc"), "3d_fullres")
    architecture = found["architecture"]
    assert architecture["network_class_name"] == "nnunet_mamba.networks.umamba_enc"
    assert architecture["_kw_requires_import"] == []
    assert architecture["arch_kwargs"]["patch_size"] == [40, 224, 192]
    manager = PlansManager(overlaid(abdomen, "umamba_abdomen_ct", network="umamba_enc"))
    import torch

    with torch.device("meta"):
        network = create_network(
            "umamba_enc",
            input_channels=1,
            num_classes=14,
            **network_kwargs(manager.get_configuration("3d_fullres")),
        )
    assert sum(p.numel() for p in network.parameters()) == 42_842_798  # as published for this plan


def test_a_network_for_slices_takes_the_slices_alone(abdomen):
    overlay = apply_template(abdomen, load_template("umamba_abdomen_mr"), "new", network="vm_unet")
    assert list(overlay.changed) == ["2d"]
    assert overlay.notes == ("3d_fullres: vm_unet works in 2D; left as it was planned.",)
    assert resolved(overlay.plans, "2d")["architecture"]["arch_kwargs"] == {"strides": [[1, 1], [32, 32]]}


@pytest.mark.parametrize(
    ("template", "options", "complaint"),
    [
        ("umamba_abdomen_ct", {"network": "vm_unet"}, "3d_fullres: vm_unet works in 2D.*Choose"),
        ("umamba_endoscopy", {"network": "segmamba"}, "2d: segmamba works in 3D"),
        ("umamba_abdomen_ct", {"network": "munet"}, "Unknown network 'munet'"),
    ],
)
def test_a_network_for_other_axes_is_refused(abdomen, template, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        overlaid(abdomen, template, **options)


def test_a_volume_template_on_slices_is_refused(abdomen):
    abdomen["configurations"] = {"2d": abdomen["configurations"]["2d"]}
    with pytest.raises(ValueError, match=r"which has 2d\. 3d_fullres: the dataset has no such configuration"):
        overlaid(abdomen, "umamba_abdomen_ct")


def test_a_patch_much_larger_than_the_images_is_warned_of_with_one_that_fits(abdomen):
    """The hippocampus: 36x50x35 voxels are 3 % of 128^3."""
    abdomen["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [36, 50, 35]
    template = load_template("taming_braintumour")
    changed = apply_template(abdomen, template, "new_plans").changed["3d_fullres"]
    assert changed.warning.startswith("the template's patch of 128x128x128 is much larger than the images")
    assert "the median one, 36x50x35 voxels, fills 3% of it" in changed.warning
    fitted = apply_template(abdomen, template, "new_plans", fit_images=True).changed["3d_fullres"]
    assert changed.patch == (128, 128, 128) and not fitted.warning
    assert f"--fit-images takes {'x'.join(map(str, fitted.patch))} instead" in changed.warning
    assert all(36 <= size < 64 for size in fitted.patch)
    total = [prod(steps) for steps in zip(*fitted.architecture["arch_kwargs"]["strides"], strict=True)]
    assert all(size % stride == 0 for size, stride in zip(fitted.patch, total, strict=True))
    assert fitted.notes == (f"patch [128, 128, 128] -> {list(fitted.patch)}, as the images are",)


@pytest.mark.parametrize(("depth", "warned"), [(63, True), (64, False), (128, False), (500, False)])
def test_half_a_patch_of_image_is_enough(abdomen, depth, warned):
    abdomen["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [depth, 128, 200]
    template = load_template("taming_braintumour")
    assert bool(apply_template(abdomen, template, "new_plans").changed["3d_fullres"].warning) == warned


def test_a_patch_within_the_images_stays_as_the_paper_has_it(abdomen):
    abdomen["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [300, 300, 300]
    template = load_template("umamba_abdomen_ct")
    plain, fitted = (
        apply_template(abdomen, template, "new_plans", fit_images=fit_images).changed["3d_fullres"]
        for fit_images in (False, True)
    )
    assert plain == fitted


@pytest.mark.parametrize("name", ["a__b", "", "_x", "x_", "a/b"])
def test_names_that_nnunets_folders_cannot_hold_are_refused(abdomen, name):
    with pytest.raises(ValueError, match="cannot name plans"):
        apply_template(abdomen, load_template("cpu"), name)


def test_the_file_is_sound_and_never_overwrites_another(abdomen, tmp_path):
    plans = overlaid(abdomen, "umamba_abdomen_ct", network="mm_unet")
    path = write_plans(tmp_path, plans, replace=False)
    assert path.name == "new_plans.json"
    assert find_issues(json.loads(path.read_text()), path.stem) == []
    assert write_plans(tmp_path, plans, replace=False) == path  # the same again
    other = overlaid(abdomen, "cpu")
    with pytest.raises(ValueError, match="holds other plans"):
        write_plans(tmp_path, other, replace=False)
    write_plans(tmp_path, other, replace=True)
    assert json.loads(path.read_text()) == other
    assert [file.name for file in tmp_path.iterdir()] == ["new_plans.json"]  # no draft is left


class LinearMemory(StepMemory):
    """Each voxel of an item takes one byte, the network none."""

    def simulate(self, step, batch):
        return batch * step.n_vox

    def weight_bytes(self, step):
        return 0


@pytest.fixture
def one_byte_per_voxel() -> LinearMemory:
    return LinearMemory("nnunet", 1, 14, load_profile("cuda"))


def test_first_the_batch_shrinks_then_the_patch(abdomen, one_byte_per_voxel):
    """Of axes that are equally long beside the template's, the last is shortened; 160 is 5 * 2^5. Then it is
    the turn of the others."""
    template, item = load_template("umamba_abdomen_ct"), 40 * 224 * 192
    budgets = [
        (2 * item, (40, 224, 192)),
        (2 * item - 1, (40, 224, 160)),
        (2 * 40 * 192 * 160, (40, 192, 160)),
    ]
    for budget, patch in budgets:
        overlay = apply_template(abdomen, template, "new", memory=one_byte_per_voxel, budget=budget)
        choice = overlay.changed["3d_fullres"]
        assert (choice.patch, choice.batch) == (patch, 2)
        assert len(choice.notes) == (budget < 2 * item)


def test_a_larger_batch_is_cut_to_what_fits(abdomen, one_byte_per_voxel):
    template = load_template("umamba_abdomen_mr")  # 2d: 320x320, batch 30
    budget = 11 * 320 * 320 + 1
    del abdomen["configurations"]["3d_fullres"], abdomen["configurations"]["3d_cascade_fullres"]
    overlay = apply_template(abdomen, template, "new", memory=one_byte_per_voxel, budget=budget)
    assert overlay.changed["2d"].batch == 11
    assert overlay.changed["2d"].notes == ("batch 30 -> 11",)


def test_a_batch_of_one_becomes_the_two_that_fit_and_costs_no_patch(abdomen, one_byte_per_voxel):
    own = resolved(abdomen, "3d_fullres")
    choice = ConfigurationChange(tuple(own["patch_size"]), 1, own["architecture"])
    fitted = fit_to_memory(choice, own["spacing"], one_byte_per_voxel, budget=2 * 64 * 160 * 160)
    assert (fitted.patch, fitted.batch, fitted.notes) == ((64, 160, 160), 2, ("batch 1 -> 2",))


def test_what_never_fits_ends_with_numbers(abdomen, one_byte_per_voxel):
    with pytest.raises(ValueError, match=r"nnunet takes .* GiB for two patches of .*, the shortest"):
        overlaid(abdomen, "umamba_abdomen_ct", memory=one_byte_per_voxel, budget=100)
