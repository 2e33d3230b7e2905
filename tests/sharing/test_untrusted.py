"""Plans of others: what nnU-Net would import and call is of torch, nnU-Net's networks or this package."""

import json

import pytest
from conftest import configuration

from nnunet_mamba.sharing.untrusted import read_plans


def write(tmp_path, **changes):
    own = configuration(3, 2)
    own["architecture"] |= changes
    plans = {"configurations": {"c": own, "d": {"inherits_from": "c"}}}
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
        {},
        {"configurations": []},
        {"configurations": {"c": 1}},
        {"configurations": {"c": {"architecture": {}}}},
        {"configurations": {"c": {"architecture": {"arch_kwargs": {}, "_kw_requires_import": ["x"]}}}},
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
