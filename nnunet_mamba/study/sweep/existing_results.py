"""Existing results in a job's folder: an unfinished attempt, results of another cache key, or unmanaged
ones."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.checkpoints import (
    FINAL,
    find_free_name,
    is_validated,
    recover_checkpoint,
    remove_unreadable_predictions,
)
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import FORMAT, Record

WANDB = "nnUNet_wandb_enabled"
MARKER = "sweep.json"  # in the folder of a job
LINE = "\n  "


class UnmanagedResultsError(ValueError):
    """The job's folder holds results that no sweep has a record of."""


def prepare_output(job: Job, cache_key: str, before: Record | None, *, adopt: bool, log: LogFn) -> bool:
    """Make the job's folder ready for this cache key; return whether existing results are adopted.

    Nothing is deleted: results of another cache key are archived. The folder's marker names the key that it
    was made for, so studies can share what they have in common, and notice what another has made anew.
    """
    folder = job.own_folder
    if folder is None:
        return adopt and before is None and bool(job.products) and is_complete(job, cache_key)
    made_for = read_marker(folder) or (before.cache_key if before else None)
    if made_for is None:
        found = has_results(folder, job.kind)
        if found and not adopt:
            raise UnmanagedResultsError(describe_unmanaged([str(folder)]))
        return found
    if made_for != cache_key and folder.exists():
        archive = folder.rename(find_free_name(archive_name(folder, made_for)))
        log(f"{folder.name} was made from other settings or data; it is kept as {archive}")
    return False


def describe_unmanaged(folders: Sequence[str]) -> str:
    """Return the message about results that no sweep made."""
    return (
        "There is no record of how these were made; they may come from other settings or data. Take them "
        f"over with --adopt if they are the same, or move them away:\n  {join_names(folders, separator=LINE)}"
    )


def is_complete(job: Job, cache_key: str) -> bool:
    """Return whether all products exist, and none was made for another cache key since."""
    if job.kind == "preprocess" and job.data is not None:
        return job.data.stands_for(cache_key)
    made_for = job.own_folder and read_marker(job.own_folder)
    return not missing_products(job) and made_for in (None, cache_key)


def missing_products(job: Job) -> list[str]:
    """Return the products that do not exist."""
    return [str(product) for product in job.products if not product.exists()]


def write_marker(job: Job, cache_key: str) -> None:
    """Write into the job's folder which cache key it is filled for."""
    if job.own_folder is not None:
        content = {"format": FORMAT, "job": job.name, "cache_key": cache_key}
        write_json(job.own_folder / MARKER, content)


def read_marker(folder: Path) -> str | None:
    """Return the cache key that the folder was made for, None without a marker of this format."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return str(content["cache_key"]) if content["format"] == FORMAT else None
    except (OSError, ValueError, KeyError):
        return None


def restore_archived(job: Job, cache_key: str, log: LogFn) -> None:
    """Rename the folder that was archived under this cache key back.

    Called once the record has this key: a crash in between would leave the folder under another key's record.
    """
    folder = job.own_folder
    if folder is not None and not folder.exists() and archive_name(folder, cache_key).is_dir():
        archive_name(folder, cache_key).rename(folder)
        log(f"{folder.name} of these very settings was archived earlier and is restored")


def archive_name(folder: Path, cache_key: str) -> Path:
    """Return the name of an archived folder, which does not begin with fold_.

    nnU-Net takes the end of a name that does for a number when it looks for folds.
    """
    return folder.with_name(f"outdated-{cache_key}-{folder.name}")


def has_results(folder: Path, kind: str) -> bool:
    """Return whether there is anything to lose: for a training a checkpoint, else any file."""
    return any(folder.glob("checkpoint_*.pth" if kind == "train" else "*"))


def remaining_command(job: Job, log: LogFn, *, adopted: bool) -> tuple[Command | None, str | None]:
    """Return the command for what is left to do, None for nothing, and the checkpoint that it resumes."""
    if job.kind == "train" and job.own_folder is not None:
        return _remaining_training(job, job.own_folder, log)
    if adopted and not missing_products(job):
        return None, None
    if job.own_folder is not None and "--continue_prediction" in job.command.arguments:
        remove_unreadable_predictions(job.own_folder, log)
    return job.command, None


def _remaining_training(job: Job, fold: Path, log: LogFn) -> tuple[Command | None, str | None]:
    """Return as `remaining_command`: train, resume by --c, or only validate by --val.

    With a final checkpoint --c would prepare a training and write that file anew.
    """
    checkpoint = recover_checkpoint(fold, log)
    if checkpoint is None:
        return job.command, None
    if checkpoint.name != FINAL:
        log(f"resuming from {checkpoint.name}")
        return resume_command(job.command), checkpoint.name
    if is_validated(fold) and not missing_products(job):
        log("trained and validated already")
        return None, checkpoint.name
    log("trained already; only the validation is left")
    return validate_command(job.command), checkpoint.name


def resume_command(command: Command) -> Command:
    """Return the command with --c, without pretrained weights: nnU-Net refuses both at once."""
    return _with_flag(command, "--c")


def validate_command(command: Command) -> Command:
    """Return the command with --val.

    Weights & Biases stays off: its logger deletes the training's curves when it does not resume.
    """
    enabled = {**os.environ, **command.variables}.get(WANDB, "0") not in ("0", "False", "false")
    variables = {**command.variables, WANDB: "0"} if enabled else command.variables
    return replace(_with_flag(command, "--val"), variables=variables)


def _with_flag(command: Command, flag: str) -> Command:
    """Return the command with --c or --val, in the place of either and of pretrained weights."""
    arguments = list(command.arguments)
    if "-pretrained_weights" in arguments:
        place = arguments.index("-pretrained_weights")
        del arguments[place : place + 2]
    kept = [argument for argument in arguments if argument not in ("--c", "--val")]
    return replace(command, arguments=(*kept, flag))
