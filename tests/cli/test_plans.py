"""nnunet-mamba plans."""

import json

import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.plans.memory import StepMemory


@pytest.fixture
def dataset(nnunet_folders, make_plans, make_dataset_json):
    """The folder of a dataset that nnU-Net has planned."""
    folder = nnunet_folders.preprocessed / "Dataset999_Tiny"
    folder.mkdir()
    plans = make_plans(n_stages=4, patch=(32, 48, 40))
    plans["configurations"]["2d"].update(patch_size=[48, 40], median_image_size_in_voxels=[48.0, 40.0])
    for own in plans["configurations"].values():
        own["batch_size"] = 9
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(make_dataset_json()))
    return folder


def test_every_template_is_listed_with_its_paper(capsys):
    assert main(["plans", "templates"]) == 0
    printed = capsys.readouterr().out
    assert "umamba_abdomen_ct    umamba_bot  for flare22" in printed
    assert "3d_fullres: 40x224x192, batch 2, 6 stages" in printed
    assert "arXiv:2401.04722" in printed
    assert "3d_fullres: the dataset's patch, batch 2" in printed  # mm_unet_amos
    assert printed.count("arXiv") == 13


def test_apply_writes_plans_and_prints_how_to_train_them(capsys, dataset):
    assert main(["plans", "apply", "cpu", "999"]) == 0
    printed = capsys.readouterr().out
    plans = json.loads((dataset / "nnUNetPlans_cpu.json").read_text())
    assert plans["plans_name"] == "nnUNetPlans_cpu"
    assert "2d: 48x40, batch 8, 4 stages" in printed
    assert f"-> {dataset / 'nnUNetPlans_cpu.json'}" in printed
    assert "nnUNetv2_train 999 3d_fullres 0 -p nnUNetPlans_cpu -tr nnUNetTrainerMMUNet " in printed
    assert "nnU-Net's own trainer" not in printed  # the plans name nnU-Net's network


@pytest.mark.parametrize(
    ("network", "command"),
    [
        ("umamba_enc", "nnUNetv2_train 999 2d 0 -p nnUNetPlans_cpu_umamba_enc    #"),
        (
            "vm_unet",
            "nnUNetv2_train 999 2d 0 -p nnUNetPlans_cpu_vm_unet -tr nnUNetTrainerNoDeepSupervision  ",
        ),
    ],
)
def test_apply_with_a_network_prints_the_trainer_of_nnunet_that_works(capsys, dataset, network, command):
    assert main(["plans", "apply", "cpu", "Dataset999_Tiny", "--network", network]) == 0
    assert command in capsys.readouterr().out


def test_apply_refuses_to_overwrite_unless_told(capsys, dataset):
    command = ["plans", "apply", "cpu", "999", "--name", "mine"]
    assert main(command) == 0
    assert main(command) == 0  # the same again
    assert main([*command, "--network", "mm_unet"]) == 2
    assert "holds other plans. Choose another name" in capsys.readouterr().err
    assert main([*command, "--network", "mm_unet", "--replace"]) == 0


def test_apply_fits_a_card(capsys, dataset, monkeypatch):
    monkeypatch.setattr(StepMemory, "simulate", lambda self, step, batch: batch * step.n_vox)
    monkeypatch.setattr(StepMemory, "weight_bytes", lambda self, step: 0)
    vram = 3 * 48 * 40 / 0.7 / 2**30  # three slices; volumes shrink to two of as many voxels
    assert main(["plans", "apply", "cpu", "999", "--vram-gb", str(vram)]) == 0
    printed = capsys.readouterr().out
    assert "mm_unet is given 0.0 GiB" in printed and "30% kept free, unmeasured" in printed
    assert "batch 8 -> " in printed
    assert "3d_fullres: " in printed and "patch [" in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense", "999"], "Unknown plans template 'nonsense'. Choose one of cpu"),
        (["cpu", "998"], "Expected one dataset Dataset998_*"),
        (["cpu", "999", "--plans", "other"], "other.json does not exist. Plan the dataset first"),
        (["cpu", "999", "--network", "munet"], "Unknown network 'munet'"),
        (["cpu", "999", "--vram-gb", "0"], "must be a positive number of GiB, got 0.0"),
        (["cpu", "999", "--name", "a__b"], "'a__b' cannot name plans"),
        (["cpu", "999", "--vram-gb", "8", "--device", "tpu"], "Unknown device 'tpu'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, dataset, arguments, complaint):
    before = sorted(dataset.iterdir())
    assert main(["plans", "apply", *arguments]) == 2
    captured = capsys.readouterr().err
    assert complaint in captured
    assert captured.count("\n") == 1
    assert sorted(dataset.iterdir()) == before


def test_check_of_sound_plans(capsys, dataset):
    command = ["plans", "check", str(dataset / "nnUNetPlans.json"), "--network", "mm_unet_nossm", "vm_unet"]
    assert main([*command, "--configuration", "3d_fullres"]) == 0
    printed = capsys.readouterr().out
    assert "3d_fullres: 32x48x40, batch 9, 1 -> 3 channels" in printed
    names = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert names == ["PlainConvUNet", "mm_unet_nossm", "vm_unet"]
    assert "This network works in 2D" in printed
    assert "nnUNetPlans.json: sound" in printed


def test_check_of_faulty_plans(capsys, dataset):
    path = dataset / "nnUNetPlans.json"
    path.rename(dataset / "renamed.json")
    assert main(["plans", "check", str(dataset / "renamed.json")]) == 1
    assert "fault: plans_name is 'nnUNetPlans', but the file is renamed.json" in capsys.readouterr().out


def test_check_of_plans_whose_own_network_cannot_be_built(capsys, dataset):
    path = dataset / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture.update(network_class_name="nnunet_mamba.networks.vm_unet", _kw_requires_import=[])
    architecture["arch_kwargs"] = {"strides": [[1, 1, 1], [8, 8, 8]]}
    path.write_text(json.dumps(plans))
    command = ["plans", "check", str(path), "--network", "mm_unet", "--configuration", "3d_fullres"]
    assert main(command) == 1
    assert "its own network fails in 3d_fullres" in capsys.readouterr().out


def test_make_needs_a_fingerprint(capsys, dataset):
    assert main(["plans", "make", "999", "--network", "mm_unet", "--vram-gb", "8"]) == 2
    assert "nnUNetv2_extract_fingerprint -d ID" in capsys.readouterr().err
