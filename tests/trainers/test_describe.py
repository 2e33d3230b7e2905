"""Descriptions of trainers: equal for equal trainings, other for others."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (
    nnUNetTrainer_5epochs,
)

from nnunet_mamba import trainers
from nnunet_mamba.io.resources import resource_dir
from nnunet_mamba.trainers import describe as module
from nnunet_mamba.trainers.describe import describe, describe_named, to_plain
from nnunet_mamba.trainers.variants import make_variant


class Outside(trainers.nnUNetTrainerMMUNet):
    """Written outside of the package: its source counts."""


def test_every_trainer_of_the_package_is_described_by_values_alone(monkeypatch):
    """So comments and layout cannot matter."""
    monkeypatch.setattr(module, "_source", None)
    described = {name: describe(getattr(trainers, name)) for name in trainers.__all__}
    assert json.loads(json.dumps(described)) == described
    without_name = [json.dumps({**d, "trainer": ""}, sort_keys=True) for d in described.values()]
    repeated = [name for name, d in zip(described, without_name, strict=True) if without_name.count(d) > 1]
    assert all("NoSSM" in name for name in repeated)  # what an ablation changes of the mixer is gone there


def test_the_values_by_hand():
    d = describe(trainers.nnUNetTrainerMambaUNetPaper)
    assert d["recipe"]["optimizer"] == "torch.optim.sgd.SGD"
    assert d["recipe"]["loss"]["args"] == [0.5]
    assert d["recipe"]["schedule"] == {"class": "Poly", "exponent": 0.9}
    assert d["network"]["mixer"]["d_state"] == 16
    assert describe(trainers.nnUNetTrainerMMUNet_demo)["plans_template"]["budget"]["2d"]
    assert describe(trainers.nnUNetTrainerControl_5epochs)["settings"] == {"num_epochs": 5}


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"initial_lr": 1e-4}},
        {"recipe": replace(trainers.nnUNetTrainerMMUNet.recipe, optimizer=torch.optim.Adam)},
        {"overrides": {"d_state": 8}},
        {"n_supervised_scales": None},
        {"plans_template": "cpu"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_the_training_changes_the_description(changes):
    before = describe(trainers.nnUNetTrainerMMUNet)
    changed = describe(make_variant(trainers.nnUNetTrainerMMUNet, "", **changes))
    assert changed != before and changed["trainer"] == before["trainer"]


def test_a_row_of_the_table_of_networks_counts(monkeypatch):
    from nnunet_mamba.networks import family

    before = describe(trainers.nnUNetTrainerMMUNet)
    monkeypatch.setitem(family.FAMILY, "mm_unet", family.FAMILY["umamba_bot"])
    assert describe(trainers.nnUNetTrainerMMUNet) != before


def test_a_word_of_the_row_that_a_trainer_overrides_does_not_count(monkeypatch):
    """Of a trainer that says its order itself, whatever the row says."""
    from nnunet_mamba.networks import family

    one_direction = make_variant(trainers.nnUNetTrainerMMUNet, "", overrides={"order": "uni"})
    before = describe(one_direction)
    row = family.FAMILY["mm_unet"]
    monkeypatch.setitem(family.FAMILY, "mm_unet", row.with_overrides(order="multi"))
    assert describe(one_direction) == before
    monkeypatch.setitem(family.FAMILY, "mm_unet", row.with_overrides(d_state=8))
    assert describe(one_direction) != before


def test_classes_of_others_are_described_by_source_up_to_nnunets_own():
    (one,) = describe(nnUNetTrainer_5epochs)["source"]
    assert one.endswith(".nnUNetTrainer_5epochs")
    assert describe(nnUNetTrainer)["source"] == {}
    outside = describe(Outside)
    assert [name.rsplit(".", 1)[-1] for name in outside["source"]] == ["Outside"]
    assert outside["recipe"] == describe(trainers.nnUNetTrainerMMUNet)["recipe"]


def test_what_cannot_be_written_down_is_refused():
    @dataclass(frozen=True)
    class Odd:
        tensor: object

    with pytest.raises(ValueError, match="cannot be described; expected numbers"):
        to_plain(Odd(torch.zeros(1)))
    assert to_plain(partial(torch.relu, torch.float32.is_complex))["call"].endswith("relu")
    assert "lambda x: x + 1" in to_plain(lambda x: x + 1)


def test_a_missing_trainer_gives_nnunets_error():
    described = describe_named(["nnUNetTrainerNowhere", "nnUNetTrainer"])
    assert (
        "Could not find requested nnunet trainer nnUNetTrainerNowhere"
        in (described["nnUNetTrainerNowhere"]["error"])
    )
    assert "error" not in described["nnUNetTrainer"]


USERS = """
from nnunet_mamba.trainers import nnUNetTrainerMMUNet
class nnUNetTrainerUsers(nnUNetTrainerMMUNet):
    settings = {"initial_lr": LR}
nnUNetTrainerMade = type("nnUNetTrainerMade", (nnUNetTrainerUsers,), {})
"""


def described_in_a_process(folder, *names: str) -> dict:
    paths = os.pathsep.join([str(folder), str(resource_dir("nnUNet_trainers"))])
    environment = {**os.environ, "nnUNet_extTrainer": paths}
    command = [sys.executable, "-m", "nnunet_mamba.trainers.describe", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Searching in" in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_command_describes_a_users_trainer_whose_module_nnunet_has_forgotten(tmp_path):
    names = ("nnUNetTrainerUsers", "nnUNetTrainerMade", "nnUNetTrainerMMUNet", "nnUNetTrainerNowhere")
    (tmp_path / "users.py").write_text(USERS.replace("LR", "1e-3"))
    first = described_in_a_process(tmp_path, *names)
    (tmp_path / "users.py").write_text(USERS.replace("LR", "1e-4"))
    second = described_in_a_process(tmp_path, *names)
    assert [name for name in names if first[name] != second[name]] == list(names[:2])
    assert first["nnUNetTrainerMMUNet"] == describe(trainers.nnUNetTrainerMMUNet)
    assert list(first["nnUNetTrainerNowhere"]) == ["error"]
