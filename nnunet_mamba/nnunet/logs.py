"""Logs of nnU-Net's trainings: the one parser of `training_log_*.txt` and of the same lines on a console.

nnU-Net writes an epoch as the lines

    Epoch K / train_loss X / val_loss X / Pseudo dice [X, ..] / Epoch time: X s

each after a time stamp, and the settings of the training as `debug.json` beside them. Source: nnunetv2 2.8,
training/nnUNetTrainer/nnUNetTrainer.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEBUG_FILE = "debug.json"
TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ")
SPLIT = re.compile(r"This (?:random 80:20 )?split has (\d+) training and (\d+) validation cases\.")
NUMBER = re.compile(r"nan|-?(?:inf|\d+\.?\d*(?:e[+-]?\d+)?)")
TRAIN_LOSS, VAL_LOSS, DICE, TIME = HEADS = ("train_loss", "val_loss", "Pseudo dice", "Epoch time:")


@dataclass(frozen=True)
class EpochLog:
    """Values of one finished epoch.

    number       from 0, as nnU-Net counts
    dice         pseudo Dice per foreground label; NaN for a label that no validation patch shows
    seconds      wall time
    is_complete  no line was missing; a missing loss is NaN, missing Dice is ()
    """

    number: int
    train_loss: float
    val_loss: float
    dice: tuple[float, ...]
    seconds: float
    is_complete: bool


class EpochParser:
    """Parser of a log, line by line; `number` is that of the epoch under way, None before the first."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._values: dict[str, list[float]] = {}

    def feed(self, line: str) -> EpochLog | None:
        """Return the epoch that ends with this line, with or without time stamp; else None."""
        line = strip_timestamp(line)
        if match := re.fullmatch(r"Epoch (\d+)", line):
            self.number, self._values = int(match[1]), {}
        head = next((head for head in HEADS if line.startswith(head)), None)
        if head is not None:
            self._values[head] = parse_numbers(line.removeprefix(head))
        return self._epoch() if head == TIME and self.number is not None else None

    def _epoch(self) -> EpochLog:
        assert self.number is not None
        values = self._values
        train, val, seconds = ((values.get(head) or [math.nan])[0] for head in (TRAIN_LOSS, VAL_LOSS, TIME))
        dice = tuple(values.get(DICE, ()))
        return EpochLog(self.number, train, val, dice, seconds, set(HEADS) <= set(values))


def read_epochs(texts: Iterable[str]) -> list[EpochLog]:
    """Return the complete epochs of a training's logs, in the order of their numbers.

    A training that was resumed writes a further log: of an epoch that is in several, the last one counts.
    """
    epochs = {}
    for text in texts:
        parser = EpochParser()
        for line in text.splitlines():
            epoch = parser.feed(line)
            if epoch is not None and epoch.is_complete:
                epochs[epoch.number] = epoch
    return [epochs[number] for number in sorted(epochs)]


def read_split_sizes(fold: Path) -> list[tuple[int, int]]:
    """Return the numbers of training and validation cases in the logs of a fold's folder, each pair once:
    several if the split was another one when nnU-Net was started again. Fold "all" has none."""
    logs = sorted(fold.glob("training_log_*.txt"))
    found = (SPLIT.findall(log.read_text(encoding="utf-8", errors="replace")) for log in logs)
    return list(dict.fromkeys((int(n_train), int(n_val)) for pairs in found for n_train, n_val in pairs))


def strip_timestamp(line: str) -> str:
    """Return a line without nnU-Net's time stamp and without white space around it."""
    return TIMESTAMP.sub("", line.strip()).strip()


def parse_numbers(text: str) -> list[float]:
    """Return the numbers of a text, plain or numpy's: "[np.float64(0.71), nan]" -> [0.71, nan]."""
    return [float(number) for number in NUMBER.findall(re.sub(r"np\.float\d+", "", text))]


def read_settings(fold: Path) -> dict[str, Any]:
    """Return the content of debug.json in a fold's folder, {} where it is missing or no JSON object."""
    try:
        content = json.loads((fold / DEBUG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
