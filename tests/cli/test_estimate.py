"""nnunet-mamba estimate."""

import json

import pytest

from nnunet_mamba.cli import main


@pytest.fixture
def plans_file(tmp_path, make_plans, make_dataset_json):
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(make_plans()))
    (tmp_path / "dataset.json").write_text(json.dumps(make_dataset_json()))
    return path


def mib(text):
    """The predicted peak, from the printed lines."""
    line = next(line for line in text.splitlines() if line.startswith("peak memory"))
    return float(line.split()[2])


@pytest.mark.parametrize(("network", "configuration"), [("mm_unet", "3d_fullres"), ("nnunet", "2d")])
def test_it_prints_memory_in_parts(capsys, plans_file, network, configuration):
    command = ["estimate", str(plans_file), "--network", network, "--configuration", configuration]
    assert main([*command, "--batch", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"{network}, batch 3, patch 16x16" in printed
    assert mib(printed) > 0
    for part in ("weights, gradients, momentum", "activations kept", "workspace of operators"):
        assert part in printed


def test_a_larger_patch_takes_more_and_checkpointing_less(capsys, plans_file):
    peaks = []
    for options in ([], ["--checkpoint-stages", "all"], ["--patch", "32", "64", "64"]):
        command = ["estimate", str(plans_file), "--network", "nnunet", "--patch", "32", "32", "64"]
        assert main([*command, *options]) == 0
        peaks.append(mib(capsys.readouterr().out))
    plain, recomputed, larger = peaks
    assert recomputed < plain < larger


def test_half_precision_takes_less(capsys, plans_file):
    peaks = []
    for precision in ("fp32", "fp16"):
        command = ["estimate", str(plans_file), "--network", "nnunet", "--precision", precision]
        assert main([*command, "--patch", "32", "32", "64"]) == 0
        printed = capsys.readouterr().out
        assert f"{precision}, on cpu" in printed
        peaks.append(mib(printed))
    assert peaks[1] < peaks[0]


def test_cuda_is_said_to_be_unmeasured(capsys, plans_file):
    assert main(["estimate", str(plans_file), "--network", "nnunet", "--device", "cuda"]) == 0
    printed = capsys.readouterr().out
    assert "tensors alone" in printed
    assert "workspace of operators" not in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--network", "munet"], "Unknown network 'munet'. Did you mean mm_unet"),
        ([], "--network is missing"),
        (
            ["--network", "nnunet", "--configuration", "lowres"],
            "Unknown configuration of these plans 'lowres'",
        ),
        (["--network", "nnunet", "--patch", "16", "16"], "--patch takes 3 numbers for 3d_fullres, got 2"),
        (["--network", "nnunet", "--patch", "2", "16", "16"], "Patch (2, 16, 16) is too small for 3 stages"),
        (
            ["--network", "nnunet", "--patch", "0", "16", "16"],
            "must be positive, got batch None and patch [0, ",
        ),
        (["--network", "nnunet", "--batch", "0"], "must be positive, got batch 0"),
        (
            ["--network", "nnunet", "--device", "tpu"],
            "Unknown device 'tpu'. Choose one of cpu, cuda. Or ",
        ),
        (["--network", "nnunet", "--checkpoint-stages", "9"], '"all" or a number from 0 to 3'),
        (["--network", "nnunet", "--checkpoint-stages", "two"], "got 'two'"),
        (["--network", "vm_unet"], "This network works in 2D"),
        (["--measure", "x.json", "--device", "tpu"], "--measure takes --device cpu or cuda, got 'tpu'"),
        (["--measure", "x.json", "--threads", "0"], "--threads must be positive, got 0"),
        (["--network", "nnunet", "--threads", "2"], "--threads 2 goes with --measure"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, plans_file, arguments, complaint):
    assert main(["estimate", str(plans_file), *arguments]) == 2
    captured = capsys.readouterr().err
    assert complaint in captured
    assert captured.count("\n") == 1


def test_no_plans(capsys):
    assert main(["estimate", "nowhere.json", "--network", "nnunet"]) == 2
    assert "nowhere.json does not exist; expected the plans of a dataset" in capsys.readouterr().err
