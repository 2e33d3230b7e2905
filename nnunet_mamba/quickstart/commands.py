"""nnU-Net's commands as a user would type them, and the variables they need."""

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.quickstart.workspace import FOLD, Settings, Workspace
from nnunet_mamba.resources import resource_dir

EXTERNAL = "nnUNet_extTrainer"  # where nnU-Net looks for trainers beside its own
MOST_PROCESSES = 8  # of nnU-Net's pools, and threads in prediction; each process takes about half a GB


@dataclass(frozen=True)
class Command:
    """One command with the variables that are its own."""

    program: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """For a shell in which the `shared_variables` are exported."""
        own = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*own, self.program, *map(shlex.quote, self.arguments)])

    def argv(self) -> list[str]:
        return [str(find_program(self.program)), *self.arguments]


def find_program(name: str) -> Path:
    """The program of this Python environment, active or not: PATH may lead to another one."""
    folders = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.exe"):
            if candidate.is_file():
                return candidate
    raise ValueError(
        f"{name} is not in {folders[0]}, beside {sys.executable}. Install nnU-Net there: "
        f"{sys.executable} -m pip install 'nnunetv2>=2.8,<2.9'"
    )


def shared_variables(workspace: Workspace) -> dict[str, str]:
    """What all commands of one quickstart need, by name."""
    ours = str(resource_dir("nnUNet_trainers"))
    given = [folder for folder in os.environ.get(EXTERNAL, "").split(os.pathsep) if folder]
    return {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
        EXTERNAL: os.pathsep.join([*given, *([ours] if ours not in given else [])]),
        "nnUNet_def_n_proc": str(n_processes()),
        "nnUNet_compile": "f",  # compiling takes longer than a demo gains
    }


def ask_for_trainer(name: str, variables: Mapping[str, str]) -> None:
    """Raise ValueError unless nnU-Net finds the trainer, asked in a process with these variables."""
    code = (
        f"from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as f; f({name!r})"
    )
    environment = {**os.environ, **variables}
    asked = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if asked.returncode != 0:
        reason = asked.stderr.strip().splitlines()[-1]
        raise ValueError(f"--trainer {name} cannot be used; nnU-Net says: {reason}")


def n_processes() -> int:
    return min(os.cpu_count() or 1, MOST_PROCESSES)


def plan_command(dataset: str, settings: Settings) -> Command:
    n = str(n_processes())
    arguments = ("-d", dataset_id(dataset), "-c", settings.configuration, "-npfp", n, "-np", n)
    # with nnUNet_n_proc_DA=0, the choice for training, nnU-Net's planner asks torch for 0 threads and dies
    variables = {"nnUNet_n_proc_DA": "1"}
    return Command("nnUNetv2_plan_and_preprocess", (*arguments, "--verify_dataset_integrity"), variables)


def train_command(dataset: str, settings: Settings, *, resume: bool) -> Command:
    arguments = [dataset_id(dataset), settings.configuration, str(FOLD), "-tr", settings.trainer]
    arguments += ["-device", settings.device] + (["--c"] if resume else [])
    return Command("nnUNetv2_train", tuple(arguments), training_variables(settings))


def training_variables(settings: Settings) -> dict[str, str]:
    """On a CPU the network needs every core, so that augmenting in other processes gains nothing."""
    n_workers = 0 if settings.device == "cpu" else max(1, min(12, (os.cpu_count() or 2) - 1))
    return {"nnUNet_n_proc_DA": str(n_workers)}


def predict_command(dataset: str, settings: Settings, workspace: Workspace) -> Command:
    """Fold 0, final checkpoint, all mirrorings; one process, whose progress can be read in order."""
    images, answers = workspace.raw / dataset / "imagesTs", workspace.predictions
    arguments = [
        "-i",
        str(images),
        "-o",
        str(answers),
        "-d",
        dataset_id(dataset),
        "-c",
        settings.configuration,
    ]
    arguments += ["-f", str(FOLD), "-tr", settings.trainer, "-device", settings.device]
    arguments += ["-npp", "0", "-nps", "0", "--continue_prediction"]
    return Command("nnUNetv2_predict", tuple(arguments))


def dataset_id(dataset: str) -> str:
    """Dataset004_Hippocampus -> 4"""
    return str(int(dataset[7:10]))
