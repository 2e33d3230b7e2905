"""nnunet-mamba networks."""

import json

import pytest

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.cli import main
from nnunet_mamba.plans import network_kwargs


@pytest.fixture
def plans_file(tmp_path, make_plans, make_dataset_json):
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(make_plans()))
    (tmp_path / "dataset.json").write_text(json.dumps(make_dataset_json()))
    return path


def counts(text: str) -> dict[str, int]:
    """Network name -> number of parameters, from the printed table."""
    words = [line.split() for line in text.splitlines()[1:]]
    return {name: int(number.replace(",", "")) for name, number, *rest in words if not rest}


def test_without_a_plan_it_prints_the_names(capsys):
    assert main(["networks"]) == 0
    assert capsys.readouterr().out.split() == list_networks()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_with_a_plan_it_counts_parameters(capsys, plans_file, configuration):
    assert main(["networks", "--plans", str(plans_file), "--configuration", configuration]) == 0
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    sizes = network_kwargs(PlansManager(str(plans_file)).get_configuration(configuration))
    network = create_network("mm_unet", input_channels=1, num_classes=3, **sizes)  # as dataset.json says
    printed = counts(capsys.readouterr().out)
    assert printed["mm_unet"] == sum(p.numel() for p in network.parameters())
    assert printed["mm_unet_nossm"] < printed["mm_unet"]
    assert ("vm_unet" in printed, "segmamba" in printed) == (configuration == "2d", configuration != "2d")


def test_channels_and_classes_can_be_given(capsys, plans_file):
    plans_file.with_name("dataset.json").unlink()
    command = ["networks", "--plans", str(plans_file)]
    assert main(command) == 2
    assert "give --channels and --classes" in capsys.readouterr().err
    assert main([*command, "--channels", "4", "--classes", "14"]) == 0
    assert "4 -> 14 channels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--configuration", "3d_lowres"],
            "No configuration '3d_lowres' in the plans; choose one of 2d, 3d_fullres",
        ),
        (["--plans", "nowhere.json"], "nowhere.json is no file; expected the plans of a dataset"),
        (["--plans", __file__], "test_networks.py is not JSON"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, plans_file, arguments, complaint):
    assert main(["networks", "--plans", str(plans_file), *arguments]) == 2
    captured = capsys.readouterr().err
    assert complaint in captured
    assert captured.count("\n") == 1
