"""Filters of nnU-Net's output: short lines worth showing, one at a time, and the numbers in them."""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.logs import EpochLog, EpochParser, read_settings, strip_timestamp

LogFn = Callable[[str], None]
ProgressFn = Callable[[Mapping[str, Any]], None]  # gets numbers, fit for JSON, by name

BAR = re.compile(r"^(?P<what>[^|]*?):?\s*(?P<percent>\d+)%\|.*?\|\s*(?P<count>\d+/\d+)")
STEP = re.compile(r"^(training|validation) step \d+/\d+$")
NOISE = re.compile(
    r"^(#|\{|'|INFO: You are using|Please cite|Isensee|nnU-Net: a self-conf|Nature methods"
    r"|perform_everything_on_device|Dropping 3d_lowres|Using <class|If you didn't see any"
    r"|.* U-Net configuration:)"
)
BAR_EVERY_S = 5.0
WIDTH = 120


def ignore_progress(numbers: Mapping[str, Any]) -> None:
    """Ignore progress, where nobody asks for it."""


class PlainLines:
    """Filter that drops banners and dumps, and shows progress bars every few seconds."""

    def __init__(self, log: LogFn, report_progress: ProgressFn = ignore_progress) -> None:
        self.log = log
        self.report_progress = report_progress
        self.bar_at = 0.0
        self.bar_said = ""

    def __call__(self, line: str) -> None:
        line = strip_timestamp(line)
        bar = BAR.match(line)
        if bar:
            self.show_bar(bar["what"].strip() or "progress", bar["count"])
        elif line and not NOISE.match(line):
            self.log(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...")

    def show_bar(self, what: str, count: str) -> None:
        """Log a bar at most every few seconds; a finished one always, but once."""
        now, text = time.monotonic(), f"{what} {count}"
        done, total = count.split("/")
        if (done == total or now - self.bar_at > BAR_EVERY_S) and text != self.bar_said:
            self.bar_at, self.bar_said = now, text
            self.log(text)
            self.report_progress({"text": text})


class PredictionLines:
    """Filter that counts the cases of a sequential prediction, and the tiles of each.

    nnU-Net says how many there are, then for each `perform_everything_on_device` and a bar of tiles.
    """

    SHOWN = re.compile(r"^(WARNING|Prediction on device was unsuccessful|.*Error\b)")

    def __init__(self, log: LogFn, report_progress: ProgressFn = ignore_progress) -> None:
        self.log = log
        self.report_progress = report_progress
        self.total = "?"
        self.case = 0
        self.bars = PlainLines(log)

    def __call__(self, line: str) -> None:
        line = line.strip()
        if match := re.search(r"That's (\d+) cases", line):
            self.total = match[1]
        elif line.startswith("perform_everything_on_device: "):
            self.case += 1
        elif bar := BAR.match(line):
            self.bars.show_bar(f"case {self.case}/{self.total}, tile", bar["count"])
            self.report_progress(
                {"case": self.case, "cases": self.n_cases(), **parse_tile_count(bar["count"])}
            )
        elif self.SHOWN.match(line):
            self.log(line[:WIDTH])

    def n_cases(self) -> int | None:
        return int(self.total) if self.total.isdigit() else None


def parse_tile_count(count: str) -> dict[str, int]:
    """Return a bar's count by name: 3/8 -> {"tile": 3, "tiles": 8}"""
    done, total = map(int, count.split("/"))
    return {"tile": done, "tiles": total}


@dataclass(frozen=True)
class EpochProgress:
    """One epoch of a training with what follows from all before it; None where nothing is known."""

    values: EpochLog
    of: int | None
    seconds_left: float | None

    def __str__(self) -> str:
        values = self.values
        count = f"epoch {values.number + 1}{f'/{self.of}' if self.of else ''}"
        dice = " ".join(f"{value:.2f}" for value in values.dice)
        losses = f"loss {values.train_loss:g}, validation {values.val_loss:g}"
        left = "" if self.seconds_left is None else f"   {format_duration(self.seconds_left)} left"
        return f"{count}   {losses}   Dice {dice}   {values.seconds:.1f} s{left}"

    def numbers(self) -> dict[str, Any]:
        """Return the values, fit for JSON, by name; epochs count from 1."""
        return {
            "epoch": self.values.number + 1,
            "of": self.of,
            "train_loss": finite_or_none(self.values.train_loss),
            "val_loss": finite_or_none(self.values.val_loss),
            "dice": [finite_or_none(value) for value in self.values.dice],
            "seconds_per_epoch": self.values.seconds,
            "seconds_left": self.seconds_left,
        }


def finite_or_none(value: float) -> float | None:
    """Return the value, None if it is NaN or infinite, which JSON does not have."""
    return value if math.isfinite(value) else None


class TrainingLines:
    """Filter of a training's output: each epoch in one line, with the time left, then its validation.

    Our trainers add to nnU-Net's lines, if asked: training step I/N, validation step I/N.
    """

    SHOWN = re.compile(
        r"^(predicting |Mean Validation Dice|WARNING|Training done|Using device|The loss is not finite)"
    )

    def __init__(self, log: LogFn, fold: Path, report_progress: ProgressFn = ignore_progress) -> None:
        self.log = log
        self.report_progress = report_progress
        self.fold = fold  # where nnU-Net writes the number of epochs before the first one
        self.parser = EpochParser()
        self.times_s: list[float] = []
        self.n_validated = 0

    def __call__(self, line: str) -> None:
        line = strip_timestamp(line)
        epoch = self.parser.feed(line)
        if epoch is not None:
            self.times_s.append(epoch.seconds)
            self.show_epoch(EpochProgress(epoch, self.n_epochs(), self.seconds_left(epoch.number)))
        elif STEP.match(line):
            self.log(f"{self.counted()}: {line}")
        elif line.startswith("Selective scan on cpu: backend numba"):
            self.log("compiling the CPU's kernels with the first step, unless that was done before")
        elif self.SHOWN.match(line):
            self.count_validation(line)
            self.log(line[:WIDTH])

    def counted(self) -> str:
        """Return the epoch under way, counted from 1, and of how many: epoch 3/30"""
        number, total = self.parser.number, self.n_epochs()
        return f"epoch {0 if number is None else number + 1}" + (f"/{total}" if total else "")

    def show_epoch(self, epoch: EpochProgress) -> None:
        self.log(str(epoch))
        self.report_progress(epoch.numbers())

    def count_validation(self, line: str) -> None:
        if line.startswith("predicting "):
            self.n_validated += 1
            self.report_progress({"validation_case": self.n_validated, "seconds_left": None})

    def seconds_left(self, number: int) -> float | None:
        """Return the time for the epochs after this one, by the mean of recent ones; None if not known."""
        recent = (self.times_s[1:] or self.times_s)[-5:]  # the first epoch also compiles
        left = (self.n_epochs() or 0) - (number + 1)
        return left * sum(recent) / len(recent) if left > 0 else None

    def n_epochs(self) -> int | None:
        """Return how many epochs this trainer runs, as far as nnU-Net has written it."""
        try:
            return int(read_settings(self.fold)["num_epochs"])
        except (ValueError, KeyError):
            return None


def format_duration(seconds: float) -> str:
    """Return a time as text: 0:42, 3:07, 1:02:03"""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def rate_limited(log: LogFn, what: str, every_s: float = BAR_EVERY_S) -> Callable[[int, int], None]:
    """Return a callback for (done, total) that logs them every few seconds and at the end."""
    said_at = time.monotonic()

    def report_progress(done: int, total: int) -> None:
        nonlocal said_at
        if done == total or time.monotonic() - said_at > every_s:
            said_at = time.monotonic()
            log(f"{what} {done}/{total}")

    return report_progress
