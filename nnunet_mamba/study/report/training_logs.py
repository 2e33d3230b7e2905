"""Curves, time and hardware of trainings, read from nnU-Net's logs and checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.checkpoints import BEST, FINAL, LATEST

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: (.*)$")
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?|nan")
SMOOTHING = 0.9  # of nnU-Net's moving average of pseudo Dice
FACTS = {  # keys of debug.json and their names in the report, which leaves out the machine's name
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
class TrainingCurves:
    """Series with a value per epoch; Dice is nnU-Net's pseudo Dice of random validation patches."""

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    dice: tuple[float, ...]  # mean over the foreground labels
    smooth_dice: tuple[float, ...]  # its moving average, by which nnU-Net picks its best checkpoint
    epoch_s: tuple[float, ...]

    @property
    def n_epochs(self) -> int:
        return len(self.train_loss)


@dataclass(frozen=True)
class TrainingRun:
    """One fold of one trainer, plans and configuration, with its curves and the facts of debug.json."""

    trainer: str
    plans: str
    configuration: str
    fold: str
    curves: TrainingCurves
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return sum(self.curves.epoch_s) / 3600


def find_training_runs(results: Path) -> list[TrainingRun]:
    """Return all folds in a dataset's folder of results that have a log or a checkpoint."""
    found = []
    for folder in sorted(results.glob("*__*__*/fold_*")):
        trainer, plans, configuration = folder.parent.name.split("__")
        curves = _read_fold_curves(folder)
        if curves is not None:
            fold = folder.name.removeprefix("fold_")
            found.append(TrainingRun(trainer, plans, configuration, fold, curves, _read_facts(folder)))
    return found


def _read_fold_curves(folder: Path) -> TrainingCurves | None:
    """Return the curves in the logs, or else in the first readable checkpoint."""
    logs = sorted(folder.glob("training_log_*.txt"))
    curves = parse_logs(log.read_text(encoding="utf-8", errors="replace") for log in logs)
    if curves.n_epochs:
        return curves
    from nnunet_mamba.io.torch_load import load_restricted

    for file in (folder / name for name in (FINAL, LATEST, BEST)):
        if file.is_file():
            try:
                return read_curves(load_restricted(file))
            except (ValueError, KeyError, TypeError):
                continue
    return None


def parse_logs(texts: Iterable[str]) -> TrainingCurves:
    """Return the curves of the complete epochs; a resumed training replaces the epochs it repeats."""
    epochs: dict[int, dict[str, list[float]]] = {}
    for text in texts:
        for number, values in _parse_epochs(text):
            epochs[number] = values
    complete = [
        epochs[number]
        for number in sorted(epochs)
        if {"train_loss", "val_loss", "Pseudo dice", "Epoch time:"} <= set(epochs[number])
    ]
    dice = [_mean_defined(values["Pseudo dice"]) for values in complete]
    return TrainingCurves(
        tuple(values["train_loss"][0] for values in complete),
        tuple(values["val_loss"][0] for values in complete),
        tuple(dice),
        tuple(_smooth(dice)),
        tuple(values["Epoch time:"][0] for values in complete),
    )


def _parse_epochs(text: str) -> Iterator[tuple[int, dict[str, list[float]]]]:
    """Yield each epoch's number, from 0, and its values by the words with which their lines begin."""
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


def _mean_defined(values: list[float]) -> float:
    """Return the mean over the labels that occur in the epoch's patches."""
    defined = [value for value in values if value == value]
    return sum(defined) / len(defined) if defined else float("nan")


def _smooth(values: Iterable[float]) -> Iterator[float]:
    """Yield nnU-Net's moving average."""
    average = None
    for value in values:
        average = value if average is None else SMOOTHING * average + (1 - SMOOTHING) * value
        yield average


def _read_facts(folder: Path) -> dict[str, str]:
    """Return the facts about machine and recipe in debug.json."""
    try:
        known = json.loads((folder / "debug.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: str(known[key]) for key, name in FACTS.items() if known.get(key) not in (None, "None")}


def read_curves(checkpoint: dict[str, Any]) -> TrainingCurves:
    """Return the curves in a loaded checkpoint, cut to the epochs in which all of them have a value."""
    log = checkpoint["logging"]
    names = ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice")
    ends, starts = log["epoch_end_timestamps"], log["epoch_start_timestamps"]
    series = [list(map(float, log[name])) for name in names]
    series.append([float(end - start) for start, end in zip(starts, ends, strict=False)])
    n_epochs = min(map(len, series))
    return TrainingCurves(*(tuple(values[:n_epochs]) for values in series))


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Load a checkpoint of one's own training with its pickled objects, unsafe from other people."""
    import torch

    return torch.load(file, map_location="cpu", weights_only=False)


def count_parameters(checkpoint: dict[str, Any]) -> int:
    """Count the network's trainable parameters: shared ones once, running statistics not at all."""
    weights = checkpoint["network_weights"]
    counted = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset()): tensor.numel()
        for name, tensor in weights.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    return sum(counted.values())
