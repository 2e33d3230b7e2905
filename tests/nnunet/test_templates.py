"""The templates of papers: what they say, and what is no template."""

import json
from math import prod

import pytest

from nnunet_mamba.io.resources import template_names
from nnunet_mamba.nnunet.templates import load_template, read_template
from nnunet_mamba.plans.topology import plan_topology

PINNED = [
    (name, configuration, pinned)
    for name in template_names()
    for configuration, pinned in load_template(name).configurations.items()
    if "strides" in pinned
]
PUBLISHED = {  # template, configuration -> patch, batch, poolings per axis
    ("umamba_abdomen_ct", "3d_fullres"): ([40, 224, 192], 2, [3, 5, 5]),
    ("umamba_abdomen_mr", "3d_fullres"): ([48, 160, 224], 2, [3, 5, 5]),
    ("umamba_abdomen_mr", "2d"): ([320, 320], 30, [6, 6]),
    ("umamba_endoscopy", "2d"): ([384, 640], 13, [6, 6]),
    ("umamba_microscopy", "2d"): ([512, 512], 12, [7, 7]),
    ("xlstm_unet_abdomen_mr", "2d"): ([320, 320], 6, [6, 6]),
    ("xlstm_unet_endoscopy", "2d"): ([384, 640], 1, [6, 6]),
    ("taming_acdc", "3d_fullres"): ([14, 256, 224], 2, [1, 5, 5]),
    ("taming_synapse", "3d_fullres"): ([48, 192, 192], 2, [3, 5, 5]),
    ("taming_braintumour", "3d_fullres"): ([128, 128, 128], 2, [5, 5, 5]),
}


def test_the_papers_patches_batches_and_poolings():
    found = {}
    for name, configuration, pinned in PINNED:
        poolings = [sum(s > 1 for s in axis) for axis in zip(*pinned["strides"], strict=True)]
        found[name, configuration] = (pinned["patch_size"], pinned["batch_size"], poolings)
    assert found == PUBLISHED


@pytest.mark.parametrize(("name", "configuration", "pinned"), PINNED)
def test_features_double_up_to_nnunets_limit(name, configuration, pinned):
    limit = 512 if configuration == "2d" else 320
    assert pinned["features_per_stage"] == [min(32 * 2**i, limit) for i in range(len(pinned["strides"]))]


SPACINGS = {  # of published plans; those of U-Mamba's are not known
    "taming_acdc": (6.35, 1.5234, 1.5234),
    "taming_synapse": (3.0, 0.758, 0.758),
    "taming_braintumour": (1.0, 1.0, 1.0),
    "umamba_abdomen_ct": (2.5, 0.79, 0.79),
}


@pytest.mark.parametrize("name", SPACINGS)
def test_published_topologies_are_those_of_nnunets_rule(name):
    pinned = load_template(name).configurations["3d_fullres"]
    strides, kernels, padded = plan_topology(SPACINGS[name], pinned["patch_size"])
    assert (strides, kernels, padded) == (pinned["strides"], pinned["kernel_sizes"], pinned["patch_size"])


def test_networks_of_own_topology_have_a_patch_alone():
    for name in ("vm_unet_isic", "vm_unet_synapse", "mamba_unet_acdc"):
        (pinned,) = load_template(name).configurations.values()
        assert set(pinned) == {"patch_size", "batch_size"}
    assert load_template("mm_unet_amos").configurations == {"3d_fullres": {"batch_size": 2}}


def test_every_patch_is_a_multiple_of_its_strides():
    for _, _, pinned in PINNED:
        for size, axis in zip(pinned["patch_size"], zip(*pinned["strides"], strict=True), strict=True):
            assert size % prod(axis) == 0


GOOD = {
    "paper": "x",
    "datasets": [],
    "network": "mm_unet",
    "configurations": {
        "2d": {
            "patch_size": [16, 16],
            "batch_size": 2,
            "strides": [[1, 1], [2, 2]],
            "kernel_sizes": [[3, 3], [3, 3]],
            "features_per_stage": [4, 8],
        }
    },
}


def in_2d(**changes) -> dict:
    pinned = {**GOOD["configurations"]["2d"], **changes}
    return {"configurations": {"2d": {key: value for key, value in pinned.items() if value is not None}}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"papers": "x"}, "unknown key papers"),
        ({"configurations": None, "budget": None}, "either configurations or a budget"),
        ({"budget": {}}, "either configurations or a budget"),
        ({"network": "munet"}, "Unknown network 'munet'"),
        ({"network": "segmamba"}, r"segmamba works on \(3,\) axes"),
        ({"configurations": {"3d_lowres": {}}}, "expected one of 2d, 3d_fullres"),
        (in_2d(strides=None), "kernel_sizes, features_per_stage without the rest"),
        (in_2d(patch_size=[16]), "patch_size must be 2 positive whole numbers"),
        (in_2d(patch_size=[16, 15]), r"not divisible by the total stride \[2, 2\]"),
        (in_2d(batch_size=0), "batch_size must be a positive whole number, got 0"),
        (in_2d(features_per_stage=[4]), "one entry per stage everywhere"),
        (in_2d(strides=[[1, 1], [2]]), "strides must have 2 positive whole numbers per stage"),
        (in_2d(patches=1), "2d: unknown key patches"),
    ],
)
def test_what_is_no_template_is_refused_with_the_reason(tmp_path, changes, complaint):
    path = tmp_path / "mine.json"
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=complaint):
        read_template(path)


def test_a_budget_of_other_numbers_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    budget = {d: {**load_template("cpu").budget[d], "max_batch_size": 0} for d in ("2d", "3d")}
    content = {key: value for key, value in GOOD.items() if key != "configurations"}
    path.write_text(json.dumps({**content, "budget": budget}))
    with pytest.raises(ValueError, match="positive whole numbers"):
        read_template(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_template(path)


def test_a_template_is_read_as_it_stands(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD))
    template = read_template(path)
    assert (template.name, template.network, template.note) == ("mine", "mm_unet", "")
    assert template.configurations == GOOD["configurations"]
