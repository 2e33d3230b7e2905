"""What a job finds in its own folder: another fingerprint's result, a stranger's, or its own half."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.nnunet.checkpoints import FINAL, drop_unreadable, free_name, usable_checkpoint, validated
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import Record

WANDB = "nnUNet_wandb_enabled"
MARK = "sweep.json"  # in the folder of a job
SHOWN = 5  # folders in a message


class StrangersError(ValueError):
    """The job's folder holds something that this study has no record of."""


def claim(job: Job, fingerprint: str, before: Record | None, *, adopt: bool, log: LogFn) -> bool:
    """Make the job's folder fit for this fingerprint; true if what is there is adopted.

    Nothing is deleted: what was made for another fingerprint steps aside. The folder itself says for which it
    was made, so studies can share what they have in common, and notice what another has made anew.
    """
    folder = job.own_folder
    if folder is None:
        return adopt and before is None and bool(job.products) and is_whole(job, fingerprint)
    made_for = mark_of(folder) or (before.fingerprint if before else None)
    if made_for is None:
        there = holds_work(folder, job.kind)
        if there and not adopt:
            raise StrangersError(strangers([str(folder)]))
        return there
    if made_for != fingerprint and folder.exists():
        aside = folder.rename(free_name(aside_name(folder, made_for)))
        log(f"{folder.name} was made from other settings or data; it is kept as {aside}")
    return False


def strangers(folders: Sequence[str]) -> str:
    """The message about results that no sweep made."""
    more = [f"... and {len(folders) - SHOWN} more"] if len(folders) > SHOWN else []
    listed = "\n  ".join([*folders[:SHOWN], *more])
    return (
        "There is no record of how these were made; they may come from other settings or data. Take them "
        f"over with --adopt if they are the same, or move them away:\n  {listed}"
    )


def is_whole(job: Job, fingerprint: str) -> bool:
    """Whether all that the job makes is there, and nobody has made it for another fingerprint since."""
    marked = job.own_folder and mark_of(job.own_folder)
    return not missing(job) and marked in (None, fingerprint)


def missing(job: Job) -> list[str]:
    """The products that are not there."""
    return [str(product) for product in job.products if not product.exists()]


def mark(job: Job, fingerprint: str) -> None:
    """Write into the job's folder for which fingerprint it is filled."""
    if job.own_folder is not None:
        write_json(job.own_folder / MARK, {"job": job.name, "fingerprint": fingerprint})


def mark_of(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / MARK).read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None


def take_back(job: Job, fingerprint: str, log: LogFn) -> None:
    """What was set aside comes back with its fingerprint. Called when the record has this fingerprint:
    a crash in between would leave the folder under another one's name.
    """
    folder = job.own_folder
    if folder is not None and not folder.exists() and aside_name(folder, fingerprint).is_dir():
        aside_name(folder, fingerprint).rename(folder)
        log(f"{folder.name} of these very settings was set aside earlier and is taken back")


def aside_name(folder: Path, fingerprint: str) -> Path:
    """Not fold_...: nnU-Net takes the end of such a name for a number when it looks for folds."""
    return folder.with_name(f"outdated-{fingerprint}-{folder.name}")


def holds_work(folder: Path, kind: str) -> bool:
    """Whether there is anything to lose: for a training a checkpoint, else any file."""
    return any(folder.glob("checkpoint_*.pth" if kind == "train" else "*"))


def command_left(job: Job, log: LogFn, *, adopted: bool) -> tuple[Command | None, str | None]:
    """The command that does what is left to do, None for nothing, and the checkpoint that it goes on from."""
    if job.kind == "train" and job.own_folder is not None:
        return training_left(job, job.own_folder, log)
    if adopted and not missing(job):
        return None, None
    if job.own_folder is not None and "--continue_prediction" in job.command.arguments:
        drop_unreadable(job.own_folder, log)
    return job.command, None


def training_left(job: Job, fold: Path, log: LogFn) -> tuple[Command | None, str | None]:
    """nnU-Net's --c resumes; with a final checkpoint it would prepare a training and write that file anew.

    What only lacks its validation is asked for just that, by --val.
    """
    checkpoint = usable_checkpoint(fold, log)
    if checkpoint is None:
        return job.command, None
    if checkpoint.name != FINAL:
        log(f"going on from {checkpoint.name}")
        return resuming(job.command), checkpoint.name
    if validated(fold) and not missing(job):
        log("trained and validated already")
        return None, checkpoint.name
    log("trained already; only the validation is left")
    return validating(job.command), checkpoint.name


def resuming(command: Command) -> Command:
    """nnU-Net refuses to start from other weights and go on at once."""
    return with_flag(command, "--c")


def validating(command: Command) -> Command:
    """Weights & Biases stays off: its logger deletes the training's curves when it does not resume."""
    enabled = {**os.environ, **command.variables}.get(WANDB, "0") not in ("0", "False", "false")
    variables = {**command.variables, WANDB: "0"} if enabled else command.variables
    return replace(with_flag(command, "--val"), variables=variables)


def with_flag(command: Command, flag: str) -> Command:
    """One of --c and --val, in the place of either and of weights to start from."""
    arguments = list(command.arguments)
    if "-pretrained_weights" in arguments:
        place = arguments.index("-pretrained_weights")
        del arguments[place : place + 2]
    kept = [argument for argument in arguments if argument not in ("--c", "--val")]
    return replace(command, arguments=(*kept, flag))
