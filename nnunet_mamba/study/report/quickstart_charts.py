"""The charts that page and picture share, drawn on given axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from nnunet_mamba.study.report.curves import Curves
from nnunet_mamba.study.report.quickstart_content import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING_COLOUR = "#3b82f6"
VALIDATION_COLOUR = "#f43f5e"
DICE_COLOUR = "#10b981"


def draw_losses(axes: "Axes", curves: Curves) -> None:
    epochs = np.arange(1, curves.n_epochs + 1)
    axes.plot(epochs, curves.train_loss, color=TRAINING_COLOUR, linewidth=1.8, label="training")
    axes.plot(epochs, curves.validation_loss, color=VALIDATION_COLOUR, linewidth=1.8, label="validation")
    axes.set(title="Loss", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    tidy(axes)


def draw_dice(axes: "Axes", curves: Curves) -> None:
    epochs = np.arange(1, curves.n_epochs + 1)
    axes.plot(epochs, curves.dice, ".", color=DICE_COLOUR, markersize=5, alpha=0.6, label="epoch")
    axes.plot(epochs, curves.smooth_dice, color=DICE_COLOUR, linewidth=1.8, label="moving average")
    axes.set(title="Pseudo Dice on validation patches", xlabel="epoch", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="best")
    tidy(axes)


def draw_case_dice(axes: "Axes", report: Report) -> None:
    """Every unseen case as a dot, the mean as a bar, per label."""
    jitter = np.random.default_rng(0)
    for place, label in enumerate(report.labels):
        values = np.array([s.value for s in report.scores if s.metric == "dice" and s.label == label.number])
        values = values[~np.isnan(values)]
        if not values.size:
            continue
        spread = place + jitter.uniform(-0.12, 0.12, values.size)
        axes.plot(spread, values, "o", color=TRAINING_COLOUR, alpha=0.55, markersize=5, markeredgewidth=0)
        axes.hlines(values.mean(), place - 0.27, place + 0.27, color=VALIDATION_COLOUR, linewidth=2.2)
    axes.set_xticks(range(len(report.labels)), [label.name for label in report.labels])
    axes.set(title="Dice of unseen cases (bar: mean)", xlim=(-0.6, len(report.labels) - 0.4), ylim=(0, 1.02))
    tidy(axes)


def tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.title.set_fontweight("bold")
