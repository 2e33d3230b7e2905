"""Following a command's output: what is said of it, how far it is, and when it must not go on."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.nnunet.console import LogFn, PlainLines, PredictionLines, ProgressFn, TrainingLines
from nnunet_mamba.study.sweep.job import Job

WRITE_EVERY_S = 2.0
# nnU-Net goes on after these with something else than what was asked for
WRONG_TURNS = re.compile(r"You requested fold \d+ for training but splits contain only \d+")


class WrongTurnError(RuntimeError):
    """The command does something else than what was asked; the message is the line that says so."""


class ProgressFile:
    """The last numbers told, in memory and, now and then, in a file for whoever looks."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.numbers: dict[str, Any] = {}
        self.written_at = -WRITE_EVERY_S
        file.unlink(missing_ok=True)

    def __call__(self, numbers: Mapping[str, Any]) -> None:
        self.numbers.update(numbers)
        if time.monotonic() - self.written_at >= WRITE_EVERY_S:
            self.written_at = time.monotonic()
            with suppress(OSError):  # a full disk ends no training
                write_json(self.file, self.numbers)


def watcher(job: Job, log: LogFn, report_progress: ProgressFn) -> Callable[[str], None]:
    """What gets each line of the job's command."""
    show = lines_of(job, log, report_progress)

    def watch(line: str) -> None:
        if job.kind == "train" and WRONG_TURNS.search(line):
            raise WrongTurnError(line.strip())
        show(line)

    return watch


def lines_of(job: Job, log: LogFn, report_progress: ProgressFn) -> Callable[[str], None]:
    if job.kind == "train" and job.own_folder is not None:
        return TrainingLines(log, job.own_folder / "debug.json", report_progress)
    if job.kind == "predict":
        return PredictionLines(log, report_progress)
    return PlainLines(log, report_progress)
