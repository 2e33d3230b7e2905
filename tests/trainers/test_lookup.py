"""Stock nnU-Net finds our trainers: through nnUNet_extTrainer, and registered, in a process of its own."""

import os
import subprocess
import sys

from nnunet_mamba.io.resources import resource_dir
from nnunet_mamba.nnunet import register

LOOKUP = """
import pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
for name in sys.argv[1:]:
    trainer = find(name)
    assert pickle.loads(pickle.dumps(trainer)) is trainer is find(name)
    print("FOUND", trainer.__name__, trainer.__module__)
"""


def look_up(*names: str, ext: str | None = None) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    if ext is not None:
        environment["nnUNet_extTrainer"] = ext
    command = [sys.executable, "-c", LOOKUP, *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def found(result: subprocess.CompletedProcess) -> list[list[str]]:
    assert result.returncode == 0, result.stderr
    return [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("FOUND")]


NAMES = (
    "nnUNetTrainerMMUNet",
    "nnUNetTrainerUMambaBotNoSSM_100epochs",
    "nnUNetTrainerMMUNet_demo",
    "nnUNetTrainerMMUNet_B9_250epochs",
    "nnUNetTrainerVMUNetPaper",
    "nnUNetTrainerSegMamba_NoDecaySSM",
    "nnUNetTrainerMedNeXtL",
)


def test_found_through_the_variable(unregistered):
    result = look_up(*NAMES, ext=str(resource_dir("nnUNet_trainers")))
    assert found(result) == [[name, "nnunet_mamba.trainers"] for name in NAMES]


def test_found_with_no_variable_once_registered_and_gone_without_a_trace(unregistered):
    before = sorted(unregistered.rglob("*"))
    register.register_trainers()
    assert found(look_up(*NAMES)) == [[name, "nnunet_mamba.trainers"] for name in NAMES]
    register.unregister_trainers()
    assert sorted(unregistered.rglob("*")) == before


def test_nnunets_own_trainers_are_still_found_beside_ours(unregistered):
    register.register_trainers()
    stock = look_up("nnUNetTrainer", "nnUNetTrainer_5epochs")
    assert [name for name, _ in found(stock)] == ["nnUNetTrainer", "nnUNetTrainer_5epochs"]


def test_not_found_without_either(unregistered):
    assert (
        "Could not find requested nnunet trainer nnUNetTrainerMMUNet" in look_up("nnUNetTrainerMMUNet").stderr
    )
