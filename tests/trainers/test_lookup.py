"""Stock nnU-Net finds our trainers: through nnUNet_extTrainer, and registered, in a process of its own."""

import os
import subprocess
import sys

from nnunet_mamba.io.resources import resource_dir
from nnunet_mamba.nnunet import register

LOOKUP = """
import os, pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
if folder := os.environ.pop("nnUNet_extTrainer", None):
    try:
        find(sys.argv[1])
    except RuntimeError as error:
        print("MISSED", error)
    os.environ["nnUNet_extTrainer"] = folder
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
    """What was found before the last name, which is misspelt: nnU-Net's error ends in a suggestion."""
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1] == (
        f"nnunet_mamba: Unknown trainer '{MISSPELT}'. Did you mean nnUNetTrainerMMUNet? "
        "`nnunet-mamba trainers` lists all."
    )
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
STOCK = ("nnUNetTrainer", "nnUNetTrainer_5epochs")
MISSPELT = "nnUNetTrainerMMUnet"


def test_found_through_the_variable_and_not_without_it(unregistered):
    result = look_up(*NAMES, MISSPELT, ext=str(resource_dir("nnUNet_trainers")))
    assert found(result) == [[name, "nnunet_mamba.trainers"] for name in NAMES]
    assert f"MISSED Could not find requested nnunet trainer {NAMES[0]} in nnunetv2" in result.stdout


def test_found_beside_nnunets_own_once_registered_and_gone_without_a_trace(unregistered):
    before = sorted(unregistered.rglob("*"))
    register.register_trainers()
    everything = found(look_up(*NAMES, *STOCK, MISSPELT))
    assert everything[: len(NAMES)] == [[name, "nnunet_mamba.trainers"] for name in NAMES]
    assert [name for name, _ in everything[len(NAMES) :]] == list(STOCK)
    register.unregister_trainers()
    assert sorted(unregistered.rglob("*")) == before
