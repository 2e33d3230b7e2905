"""Commands of nnU-Net and of this package as a user would type them; their programs and trainer folders."""

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.io.cpu import count_usable_cpus
from nnunet_mamba.io.resources import resource_dir
from nnunet_mamba.nnunet.catalogue import NOT_FOUND, format_unknown_trainer, list_trainer_names

EXTERNAL = "nnUNet_extTrainer"  # where nnU-Net looks for trainers beside its own
PROGRESS = "NNUNET_MAMBA_PROGRESS"  # of our trainers: seconds from one line within an epoch to the next
MOST_PROCESSES = 8  # of nnU-Net's pools, and threads in prediction; each process takes about half a GB


@dataclass(frozen=True)
class Command:
    """Command with the variables that are its own."""

    program: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the command for a shell in which the `shared_variables` are exported."""
        own = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*own, self.program, *map(shlex.quote, self.arguments)])

    def argv(self) -> list[str]:
        return [str(find_program(self.program)), *self.arguments]


def find_program(name: str) -> Path:
    """Return the path of a program of this Python environment, active or not: PATH may lead to another
    one."""
    folders = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.exe"):
            if candidate.is_file():
                return candidate
    raise ValueError(
        f"{name} is not in {folders[0]}, beside {sys.executable}. Install nnU-Net there: "
        f"{shlex.quote(sys.executable)} -m pip install 'nnunetv2>=2.8,<2.9'"
    )


def get_trainer_folders() -> str:
    """Return the value of nnUNet_extTrainer: the folders that the user named, and ours."""
    ours = str(resource_dir("nnUNet_trainers"))
    given = [folder for folder in os.environ.get(EXTERNAL, "").split(os.pathsep) if folder]
    return os.pathsep.join([*given, *([ours] if ours not in given else [])])


def check_trainer_found(name: str, variables: Mapping[str, str]) -> None:
    """Raise ValueError unless nnU-Net finds the trainer, asked in a process with these variables."""
    code = (
        f"from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as f; f({name!r})"
    )
    environment = {**os.environ, **variables}
    asked = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )
    if asked.returncode != 0:
        if name not in list_trainer_names() and NOT_FOUND in asked.stderr:
            raise ValueError(
                f"--trainer {name} cannot be used; nnU-Net does not find it. {format_unknown_trainer(name)}"
            )
        reason = asked.stderr.strip().splitlines()[-1]
        raise ValueError(f"--trainer {name} cannot be used; nnU-Net says: {reason}")


def count_processes() -> int:
    return min(count_usable_cpus(), MOST_PROCESSES)


def get_dataset_id(dataset: str) -> str:
    """Return the number of a dataset as text: Dataset004_Hippocampus -> 4"""
    return str(int(dataset[7:10]))
