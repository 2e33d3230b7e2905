"""Curves, time and hardware of trainings, read from nnU-Net's logs and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.checkpoints import BEST, FINAL, LATEST
from nnunet_mamba.nnunet.logs import read_epochs, read_settings
from nnunet_mamba.nnunet.paths import Method, find_folds

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
    """One fold of a method, with its curves and the facts of debug.json."""

    method: Method
    fold: str
    curves: TrainingCurves
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return sum(self.curves.epoch_s) / 3600


def find_training_runs(results: Path) -> list[TrainingRun]:
    """Return all folds in a dataset's folder of results that have a log or a checkpoint."""
    runs = []
    for folder, method, fold in find_folds(results):
        curves = _read_fold_curves(folder)
        if curves is not None:
            runs.append(TrainingRun(method, fold, curves, _read_facts(folder)))
    return runs


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
    epochs = read_epochs(texts)
    dice = [_mean_defined(epoch.dice) for epoch in epochs]
    return TrainingCurves(
        tuple(epoch.train_loss for epoch in epochs),
        tuple(epoch.val_loss for epoch in epochs),
        tuple(dice),
        tuple(_smooth(dice)),
        tuple(epoch.seconds for epoch in epochs),
    )


def _mean_defined(values: Sequence[float]) -> float:
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
    known = read_settings(folder)
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


def count_parameters(checkpoint: dict[str, Any]) -> int:
    """Count the network's trainable parameters: shared ones once, running statistics not at all."""
    weights = checkpoint["network_weights"]
    counted = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset()): tensor.numel()
        for name, tensor in weights.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    return sum(counted.values())
