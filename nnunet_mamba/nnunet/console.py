"""What of nnU-Net's output is worth showing, one short line at a time, and the numbers in it."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LogFn = Callable[[str], None]
ProgressFn = Callable[[Mapping[str, Any]], None]  # gets numbers, fit for JSON, by name

BAR = re.compile(r"^(?P<what>[^|]*?):?\s*(?P<percent>\d+)%\|.*?\|\s*(?P<count>\d+/\d+)")
STEP = re.compile(r"^(training|validation) step \d+/\d+$")
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ")
NOISE = re.compile(
    r"^(#|\{|'|INFO: You are using|Please cite|Isensee|nnU-Net: a self-conf|Nature methods"
    r"|perform_everything_on_device|Dropping 3d_lowres|Using <class|If you didn't see any"
    r"|.* U-Net configuration:)"
)
BAR_EVERY_S = 5.0
WIDTH = 120


def ignore_progress(numbers: Mapping[str, Any]) -> None:
    """Where nobody asks for the numbers."""


class PlainLines:
    """Shows lines but for banners and dumps, and progress bars now and then."""

    def __init__(self, log: LogFn, report_progress: ProgressFn = ignore_progress) -> None:
        self.log = log
        self.report_progress = report_progress
        self.bar_at = 0.0
        self.bar_said = ""

    def __call__(self, line: str) -> None:
        line = STAMP.sub("", line).strip()
        bar = BAR.match(line)
        if bar:
            self.show_bar(bar["what"].strip() or "progress", bar["count"])
        elif line and not NOISE.match(line):
            self.log(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...")

    def show_bar(self, what: str, count: str) -> None:
        """At most every few seconds; a finished bar always, but once."""
        now, text = time.monotonic(), f"{what} {count}"
        done, total = count.split("/")
        if (done == total or now - self.bar_at > BAR_EVERY_S) and text != self.bar_said:
            self.bar_at, self.bar_said = now, text
            self.log(text)
            self.report_progress({"text": text})


class PredictionLines:
    """Counts the cases of a sequential prediction, and the tiles of each.

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
            self.report_progress({"case": self.case, "cases": self.n_cases(), **tiles(bar["count"])})
        elif self.SHOWN.match(line):
            self.log(line[:WIDTH])

    def n_cases(self) -> int | None:
        return int(self.total) if self.total.isdigit() else None


def tiles(count: str) -> dict[str, int]:
    """3/8 -> {"tile": 3, "tiles": 8}"""
    done, total = map(int, count.split("/"))
    return {"tile": done, "tiles": total}


@dataclass(frozen=True)
class Epoch:
    """What nnU-Net said of an epoch; `number` counts from 1, `of` and what follows from it may be unknown."""

    number: int
    of: int | None
    train_loss: float
    val_loss: float
    dice: tuple[float, ...]  # per label, NaN for one that no validation patch shows
    seconds: float
    seconds_left: float | None

    def __str__(self) -> str:
        count = f"epoch {self.number}{f'/{self.of}' if self.of else ''}"
        dice = " ".join(f"{value:.2f}" for value in self.dice)
        losses = f"loss {self.train_loss:g}, validation {self.val_loss:g}"
        left = "" if self.seconds_left is None else f"   {duration(self.seconds_left)} left"
        return f"{count}   {losses}   Dice {dice}   {self.seconds:.1f} s{left}"

    def numbers(self) -> dict[str, Any]:
        return {
            "epoch": self.number,
            "of": self.of,
            "train_loss": finite(self.train_loss),
            "val_loss": finite(self.val_loss),
            "dice": [finite(value) for value in self.dice],
            "seconds_per_epoch": self.seconds,
            "seconds_left": self.seconds_left,
        }


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


class TrainingLines:
    """Folds the lines of an epoch into one, with the time that is left; shows the validation after it.

    nnU-Net prints an epoch as: Epoch K / train_loss X / val_loss X / Pseudo dice [X, ..] / Epoch time: X s
    Our trainers add, if asked: training step I/N, validation step I/N.
    """

    SHOWN = re.compile(
        r"^(predicting |Mean Validation Dice|WARNING|Training done|Using device|The loss is not finite)"
    )

    def __init__(self, log: LogFn, debug_json: Path, report_progress: ProgressFn = ignore_progress) -> None:
        self.log = log
        self.report_progress = report_progress
        self.debug_json = debug_json  # which nnU-Net writes before the first epoch
        self.words: dict[str, str] = {}
        self.times_s: list[float] = []
        self.n_validated = 0

    def __call__(self, line: str) -> None:
        line = STAMP.sub("", line).strip()
        if match := re.match(r"^Epoch (\d+)\s*$", line):
            self.words = {"number": match[1]}
        elif match := re.match(r"^(train_loss|val_loss|Pseudo dice) (.+)", line):
            self.words[match[1]] = match[2]
        elif match := re.match(r"^Epoch time: ([\d.]+) s", line):
            self.times_s.append(float(match[1]))
            self.end_epoch()
        elif match := STEP.match(line):
            self.log(f"{self.counted()}: {line}")
        elif line.startswith("Selective scan on cpu: backend numba"):
            self.log("compiling the CPU's kernels with the first step, unless that was done before")
        elif self.SHOWN.match(line):
            self.count_validation(line)
            self.log(line[:WIDTH])

    def counted(self) -> str:
        """The epoch, counted from 1, of how many: epoch 3/30"""
        total = self.n_epochs()
        return f"epoch {int(self.words.get('number', -1)) + 1}" + (f"/{total}" if total else "")

    def end_epoch(self) -> None:
        epoch = self.epoch()
        self.log(str(epoch))
        self.report_progress(epoch.numbers())

    def count_validation(self, line: str) -> None:
        if line.startswith("predicting "):
            self.n_validated += 1
            self.report_progress({"validation_case": self.n_validated, "seconds_left": None})

    def epoch(self) -> Epoch:
        done, total = int(self.words.get("number", -1)) + 1, self.n_epochs()
        recent = (self.times_s[1:] or self.times_s)[-5:]  # the first epoch also compiles
        return Epoch(
            number=done,
            of=total,
            train_loss=float(self.words.get("train_loss", "nan")),
            val_loss=float(self.words.get("val_loss", "nan")),
            dice=tuple(pseudo_dice(self.words.get("Pseudo dice", "[]"))),
            seconds=self.times_s[-1],
            seconds_left=(total - done) * sum(recent) / len(recent)
            if total and recent and total > done
            else None,
        )

    def n_epochs(self) -> int | None:
        """How many epochs this trainer runs, as far as nnU-Net has said."""
        try:
            return int(json.loads(self.debug_json.read_text())["num_epochs"])
        except (OSError, ValueError, KeyError):
            return None


def pseudo_dice(text: str) -> list[float]:
    """nnU-Net's list, of plain or of numpy numbers: [np.float64(0.71), nan] -> [0.71, nan]"""
    plain = re.sub(r"np\.float\d+", "", text)
    return [float(number) for number in re.findall(r"nan|\d+\.?\d*(?:e-?\d+)?", plain)]


def duration(seconds: float) -> str:
    """0:42, 3:07, 1:02:03"""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def rate_limited(log: LogFn, what: str, every_s: float = BAR_EVERY_S) -> Callable[[int, int], None]:
    """A callback for (done, total) that says so every few seconds and at the end."""
    said_at = time.monotonic()

    def report_progress(done: int, total: int) -> None:
        nonlocal said_at
        if done == total or time.monotonic() - said_at > every_s:
            said_at = time.monotonic()
            log(f"{what} {done}/{total}")

    return report_progress
