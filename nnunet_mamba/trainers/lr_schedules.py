"""Learning rates as functions of the epoch.

`epoch` counts finished epochs and may be a fraction; `n_epochs` is the length of the run. Schedules have no
state, so a run resumed with `--c` continues exactly where it stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch.optim import Optimizer


class Schedule(Protocol):
    """Learning rate, and for some schedules beta1, as a function of the epoch."""

    def values(self, epoch: float, n_epochs: int, initial_lr: float) -> dict[str, float]:
        """Return the values for the optimizer's groups: `lr`, and `beta1` where that is scheduled too."""


@dataclass(frozen=True)
class Poly:
    """Polynomial decay, initial_lr (1 - epoch / n_epochs)^exponent, as nnU-Net's; linear with exponent 1."""

    exponent: float = 0.9

    def values(self, epoch: float, n_epochs: int, initial_lr: float) -> dict[str, float]:
        return {"lr": initial_lr * (1 - epoch / n_epochs) ** self.exponent}


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from initial_lr to `eta_min` in `t_max` epochs (None: in the whole run), then back up.

    Equal to torch's CosineAnnealingLR: after `t_max` epochs the rate rises again, to initial_lr at 2 `t_max`.
    """

    eta_min: float
    t_max: int | None = None

    def values(self, epoch: float, n_epochs: int, initial_lr: float) -> dict[str, float]:
        return {"lr": _cosine(initial_lr, self.eta_min, epoch / (self.t_max or n_epochs))}


@dataclass(frozen=True)
class OneCycle:
    """One cycle, up to initial_lr and down to almost 0, while beta1 goes the other way.

    Equal to torch's OneCycleLR with a step per epoch.
    """

    rise: float = 0.1  # fraction of the run in which the rate goes up
    start_factor: float = 1 / 25
    end_factor: float = 1e-8  # of the rate at the start
    betas: tuple[float, float] = (0.85, 0.95)

    def values(self, epoch: float, n_epochs: int, initial_lr: float) -> dict[str, float]:
        start, (low, high) = initial_lr * self.start_factor, self.betas
        peak = max(self.rise * n_epochs - 1, 0)
        if epoch < peak:
            part = epoch / peak
            return {"lr": _cosine(start, initial_lr, part), "beta1": _cosine(high, low, part)}
        part = (epoch - peak) / max(n_epochs - 1 - peak, 1)
        return {"lr": _cosine(initial_lr, start * self.end_factor, part), "beta1": _cosine(low, high, part)}


def _cosine(start: float, end: float, part: float) -> float:
    """Interpolate from `start` (part 0) to `end` (part 1) by half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


class Scheduler:
    """Scheduler that writes the values of a schedule into an optimizer; nnU-Net calls `step(epoch)` only."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule, initial_lr: float, n_epochs: int):
        self.optimizer, self.schedule = optimizer, schedule
        self.initial_lr, self.n_epochs = initial_lr, n_epochs

    def step(self, epoch: float) -> None:
        values = self.schedule.values(epoch, self.n_epochs, self.initial_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = values["lr"]
            if "beta1" in values:
                group["betas"] = (values["beta1"], group["betas"][1])
