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


def test_without_a_plan_it_lists_names_titles_and_papers(capsys):
    assert main(["networks"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    names = [row.split()[0] for row in rows]
    assert names == [name for name in list_networks() if not name.endswith("_nossm")]
    line = rows[names.index("vm_unet")]
    for cell in ("VM-UNet", "arXiv:2402.02491", " 2D  ", "vm_unet_nossm", "nnUNetTrainerVMUNet"):
        assert cell in line
    assert main(["networks", "taming"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["networks", "mmunett"]) == 2
    assert "Did you mean mm_unet?" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["number", "name", "folder", "file"])
def test_plans_are_named_by_dataset_or_file(capsys, plans_file, tmp_path, monkeypatch, form):
    folder = tmp_path / "preprocessed" / "Dataset004_Tiny"
    folder.mkdir(parents=True)
    for name in ("nnUNetPlans.json", "dataset.json"):
        (folder / name).write_text((tmp_path / name).read_text())
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    for variable in ("nnUNet_raw", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    outside = tmp_path / "copy" / "Dataset004_Tiny"
    outside.mkdir(parents=True)
    given = {
        "number": "4",
        "name": "Dataset004_Tiny",
        "folder": str(folder),
        "file": str(folder / "nnUNetPlans.json"),
    }[form]
    assert main(["networks", "mm", "--plans", given]) == 0
    assert "3d_fullres of nnUNetPlans.json, 1 -> 3 channels" in capsys.readouterr().out
    assert main(["estimate", given, "--network", "nnunet"]) == 0
    assert main(["plans", "check", given, "--network", "nnunet"]) == 0
    assert main(["networks", "mm", "--plans", str(outside)]) == 2  # not the dataset of that name
    assert f"{outside} does not lie in {folder.parent}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("5", "Expected one dataset Dataset005_*"),
        ("tiny", "'tiny' is not a dataset; expected Dataset###_Name, its number, or its folder. Did you mean "
         "Dataset004_Tiny?"),
        ("Dataset004_Tny", "Dataset004_Tny does not exist. Did you mean Dataset004_Tiny?"),
        ("4", "nnUNetPlans.json does not exist; Dataset004_Tiny has otherPlans. Plan it"),
    ],
)  # fmt: skip
def test_a_dataset_that_is_not_there_is_named_with_what_may_be_meant(
    capsys, tmp_path, monkeypatch, given, said
):
    folder = tmp_path / "preprocessed" / "Dataset004_Tiny"
    folder.mkdir(parents=True)
    (folder / "otherPlans.json").write_text("{}")
    for variable in ("nnUNet_preprocessed", "nnUNet_raw", "nnUNet_results"):
        monkeypatch.setenv(variable, str(folder.parent))
    assert main(["networks", "--plans", given]) == 2
    assert said in capsys.readouterr().err


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
            "Unknown configuration of these plans '3d_lowres'. Did you mean 3d_fullres? Choose one of 2d, ",
        ),
        (["--plans", "nowhere.json"], "nowhere.json does not exist; expected the plans of a dataset"),
        (["--plans", __file__], "test_networks.py is not JSON"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, plans_file, arguments, complaint):
    assert main(["networks", "--plans", str(plans_file), *arguments]) == 2
    captured = capsys.readouterr().err
    assert complaint in captured
    assert captured.count("\n") == 1
