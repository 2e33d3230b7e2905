"""nnU-Net's commands as a user would type them, and the variables that they need."""

from nnunet_mamba.io.cpu import count_usable_cpus, get_passive_wait_variables
from nnunet_mamba.nnunet.commands import (
    EXTERNAL,
    PROGRESS,
    Command,
    count_processes,
    get_dataset_id,
    get_trainer_folders,
)
from nnunet_mamba.study.quickstart.workspace import FOLD, Settings, Workspace


def shared_variables(workspace: Workspace) -> dict[str, str]:
    """Return the variables of all commands of one quickstart, by name."""
    return {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
        EXTERNAL: get_trainer_folders(),
        "nnUNet_def_n_proc": str(count_processes()),
        "nnUNet_compile": "f",  # compiling takes longer than a demo gains
        PROGRESS: "5",
        **get_passive_wait_variables(),
    }


def plan_command(dataset: str, settings: Settings) -> Command:
    n = str(count_processes())
    arguments = ("-d", get_dataset_id(dataset), "-c", settings.configuration, "-npfp", n, "-np", n)
    # with nnUNet_n_proc_DA=0, the choice for training, nnU-Net's planner asks torch for 0 threads and dies
    variables = {"nnUNet_n_proc_DA": "1"}
    return Command("nnUNetv2_plan_and_preprocess", (*arguments, "--verify_dataset_integrity"), variables)


def train_command(dataset: str, settings: Settings, *, resume: bool) -> Command:
    arguments = [get_dataset_id(dataset), settings.configuration, str(FOLD), "-tr", settings.trainer]
    arguments += ["-device", settings.device] + (["--c"] if resume else [])
    return Command("nnUNetv2_train", tuple(arguments), training_variables(settings))


def training_variables(settings: Settings) -> dict[str, str]:
    """Return the variables of a training.

    On a CPU the network needs every core, so augmenting in other processes gains nothing.
    """
    n_workers = 0 if settings.device == "cpu" else max(1, min(12, count_usable_cpus() - 1))
    return {"nnUNet_n_proc_DA": str(n_workers)}


def predict_command(dataset: str, settings: Settings, workspace: Workspace) -> Command:
    """Return the prediction by fold 0 with all mirrorings; in one process, so that lines come in order."""
    images, predictions = workspace.raw / dataset / "imagesTs", workspace.predictions
    arguments = [
        "-i",
        str(images),
        "-o",
        str(predictions),
        "-d",
        get_dataset_id(dataset),
        "-c",
        settings.configuration,
    ]
    arguments += ["-f", str(FOLD), "-tr", settings.trainer, "-device", settings.device]
    arguments += ["-npp", "0", "-nps", "0", "--continue_prediction"]
    return Command("nnUNetv2_predict", tuple(arguments))
