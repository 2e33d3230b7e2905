"""Plans of others: what nnU-Net would import and call is of torch, nnU-Net's networks or this package."""

import json
import re
from pathlib import Path

import nnunetv2
import pytest
from conftest import configuration
from tiny_exports import complete_plans

from nnunet_mamba.sharing.untrusted import LOOKED_UP, read_plans


def write(tmp_path, **changes):
    plans = complete_plans()
    own = plans["configurations"].pop("3d_fullres")
    own["architecture"] |= changes
    plans["configurations"] = {"c": own, "d": {"inherits_from": "c"}}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    return tmp_path / "plans.json"


@pytest.mark.parametrize(
    "path",
    [
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "dynamic_network_architectures.architectures.primus.PrimusM",
        "nnunet_mamba.create_network",
        "nnunet_mamba.networks.mm_unet",
    ],
)
def test_networks_of_nnunet_and_ours_pass(tmp_path, path):
    assert read_plans(write(tmp_path, network_class_name=path), "d")["configurations"]["c"]


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.os.system",
        "torch.nn.modules.module.torch.os.system",
        "torch.nn.functional.conv3d",
        "torch.hub.load",
        "torch.load",
        "dynamic_network_architectures.architectures.unet.torch.load",
        "dynamic_network_architectures.initialization.weight_init.x",
        "nnunet_mamba.cli.main",
        "nnunet_mamba.networks.family.os.system",
        "nnunet_mamba.create_network\n",
        "torch.nn.Módule",
        "unet.PlainConvUNet",
        "",
        7,
    ],
)
@pytest.mark.parametrize("place", ["network", "operator"])
def test_all_other_names_are_refused(tmp_path, path, place):
    if place == "network":
        changes = {"network_class_name": path}
    else:
        changes = {"arch_kwargs": {"conv_op": path}, "_kw_requires_import": ["conv_op"]}
    with pytest.raises(ValueError, match=r"c names .* Models that are shared may name"):
        read_plans(write(tmp_path, **changes), "c")


@pytest.mark.parametrize(
    "plans",
    [
        {"configurations": []},
        {"configurations": {"c": 1}},
        {"configurations": {"c": {"inherits_from": "c"}}},
        {"configurations": {"c": {"inherits_from": "d"}, "d": {"inherits_from": "c"}}},
        {"configurations": {"c": {"inherits_from": "nowhere"}}},
        {"configurations": {"d": {}}},
    ],
)
def test_what_is_no_plans_of_the_configuration_is_refused(tmp_path, plans):
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"plans.json cannot be read as plans of nnU-Net"):
        read_plans(tmp_path / "plans.json", "c")


def test_what_a_prediction_reads_and_plans_lack_is_named(tmp_path):
    file = write(tmp_path)
    plans = json.loads(file.read_text())
    del plans["configurations"]["c"]["patch_size"]
    file.write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"plans.json lacks configurations\.d\.patch_size\. nnU-Net cannot"):
        read_plans(file, "d")


@pytest.mark.parametrize("key", ["network_class_name", "arch_kwargs", "_kw_requires_import"])
def test_an_architecture_that_lacks_a_key_is_refused_by_its_name(tmp_path, key):
    file = write(tmp_path)
    plans = json.loads(file.read_text())
    del plans["configurations"]["c"]["architecture"][key]
    file.write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=rf"plans.json lacks '{key}'"):
        read_plans(file, "d")


def test_plans_in_the_old_format_pass(tmp_path):
    """They name one of two networks, and properties by modality."""
    file = write(tmp_path)
    plans = json.loads(file.read_text())
    plans["configurations"]["c"]["UNet_class_name"] = "PlainConvUNet"
    del plans["configurations"]["c"]["architecture"]
    plans["foreground_intensity_properties_by_modality"] = plans.pop(
        "foreground_intensity_properties_per_channel"
    )
    file.write_text(json.dumps(plans))
    assert read_plans(file, "d") == plans


@pytest.mark.parametrize("key", LOOKED_UP)
@pytest.mark.parametrize("name", ["subprocess", "recursive_find_python_class", "", None, ["glob"], {"a": 1}])
def test_what_nnunet_looks_up_is_its_own(tmp_path, key, name):
    """It would take whatever its modules have by that name, what they import included."""
    own = configuration(3, 2)
    for plans in (
        {"configurations": {"c": own}, key: name},
        {"configurations": {"c": own, "d": {"inherits_from": "c", key: name}}},
    ):
        (tmp_path / "plans.json").write_text(json.dumps(plans))
        with pytest.raises(ValueError, match=rf"{key} is .* it may be {LOOKED_UP[key][0]}"):
            read_plans(tmp_path / "plans.json", "c")


@pytest.mark.parametrize("key", LOOKED_UP)
def test_the_names_that_pass_are_those_that_nnunet_finds(key):
    source = "\n".join(
        file.read_text(encoding="utf-8") for file in Path(nnunetv2.__file__).parent.rglob("*.py")
    )
    for name in LOOKED_UP[key]:
        assert re.search(rf"^(class|def) {name}\b", source, re.MULTILINE), name
