"""What nnU-Net's logs tell of each training: curves, time, hardware. No network is loaded for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.study.report.curves import Curves, read_curves

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: (.*)$")
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?|nan")
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
SMOOTHING = 0.9  # of nnU-Net's moving average of pseudo Dice
FACTS = {  # of debug.json -> how they are called here; the machine's name is nobody's business
    "device": "device",
    "gpu_name": "GPU",
    "torch_version": "torch",
    "cudnn_version": "cuDNN",
    "num_epochs": "epochs planned",
    "num_iterations_per_epoch": "iterations per epoch",
    "batch_size": "batch size",
    "initial_lr": "learning rate",
    "weight_decay": "weight decay",
}


@dataclass(frozen=True)
class Training:
    """One fold of one trainer, plans and configuration."""

    trainer: str
    plans: str
    configuration: str
    fold: str
    curves: Curves
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return sum(self.curves.epoch_s) / 3600


def read_trainings(results: Path) -> list[Training]:
    """All folds below a dataset's folder of results that have a log or a checkpoint."""
    found = []
    for folder in sorted(results.glob("*__*__*/fold_*")):
        trainer, plans, configuration = folder.parent.name.split("__")
        curves = _curves_of(folder)
        if curves is not None:
            fold = folder.name.removeprefix("fold_")
            found.append(Training(trainer, plans, configuration, fold, curves, _facts(folder)))
    return found


def _curves_of(folder: Path) -> Curves | None:
    """From the text logs; from a checkpoint where there are none."""
    logs = sorted(folder.glob("training_log_*.txt"))
    curves = parse_logs(log.read_text(encoding="utf-8", errors="replace") for log in logs)
    if curves.n_epochs:
        return curves
    from nnunet_mamba.io.torch_load import load_restricted

    for file in (folder / name for name in CHECKPOINTS):
        if file.is_file():
            try:
                return read_curves(load_restricted(file))
            except (ValueError, KeyError, TypeError):
                continue
    return None


def parse_logs(texts: Iterable[str]) -> Curves:
    """The epochs that all values are known of; a training that was resumed writes a further log."""
    epochs: dict[int, dict[str, list[float]]] = {}
    for text in texts:
        for number, values in _epochs(text):
            epochs[number] = values
    whole = [
        epochs[number]
        for number in sorted(epochs)
        if {"train_loss", "val_loss", "Pseudo dice", "Epoch time:"} <= set(epochs[number])
    ]
    dice = [_mean(values["Pseudo dice"]) for values in whole]
    return Curves(
        tuple(values["train_loss"][0] for values in whole),
        tuple(values["val_loss"][0] for values in whole),
        tuple(dice),
        tuple(_smoothed(dice)),
        tuple(values["Epoch time:"][0] for values in whole),
    )


def _epochs(text: str) -> Iterator[tuple[int, dict[str, list[float]]]]:
    """Each epoch's number and what is written of it: the words at a line's head -> its numbers."""
    number, values = None, dict[str, list[float]]()
    for line in text.splitlines():
        match = LINE.match(line)
        words = match[1].strip() if match else ""
        if re.fullmatch(r"Epoch \d+", words):
            if number is not None:
                yield number, values
            number, values = int(words.split()[1]), {}
        for head in ("train_loss", "val_loss", "Pseudo dice", "Epoch time:"):
            if words.startswith(head):
                rest = re.sub(r"np\.float\d+", "", words.removeprefix(head))
                values[head] = [float(found) for found in NUMBER.findall(rest)] or [float("nan")]
    if number is not None:
        yield number, values


def _mean(values: list[float]) -> float:
    """Over the labels that the epoch's patches had."""
    defined = [value for value in values if value == value]
    return sum(defined) / len(defined) if defined else float("nan")


def _smoothed(values: Iterable[float]) -> Iterator[float]:
    """nnU-Net's moving average."""
    average = None
    for value in values:
        average = value if average is None else SMOOTHING * average + (1 - SMOOTHING) * value
        yield average


def _facts(folder: Path) -> dict[str, str]:
    """What debug.json says of the machine and the recipe."""
    try:
        known = json.loads((folder / "debug.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: str(known[key]) for key, name in FACTS.items() if known.get(key) not in (None, "None")}
