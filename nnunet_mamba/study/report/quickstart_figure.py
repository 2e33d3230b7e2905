"""Figure of the quickstart for a README: unseen cases in three planes, learning curves, Dice of all cases.

Its charts are drawn on given axes; the page shows the same.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunet_mamba.study.evaluation import compute_foreground_mean
from nnunet_mamba.study.report.figures import style_axes
from nnunet_mamba.study.report.files import CaseFiles
from nnunet_mamba.study.report.quickstart_content import QuickstartReport, choose_cases, mean_case_dice
from nnunet_mamba.study.report.slices import (
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    cut_slices,
    draw_slice,
    read_volume,
)
from nnunet_mamba.study.report.training_curves import TrainingCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FIGURE_STYLE: dict[Any, Any] = {"font.size": 9.0, "font.family": "sans-serif", "axes.titlesize": 10.0}
DPI = 160
TRAINING_COLOUR = "#3b82f6"
VALIDATION_COLOUR = "#f43f5e"
DICE_COLOUR = "#10b981"


def write_quickstart_figure(report: QuickstartReport, file: Path) -> None:
    """Write a PNG on white, 10 inches wide: cases on the left, charts on the right."""
    shown = choose_cases(report)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(
            figsize=(10, max(0.9 + 2.05 * len(shown), 5)), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        dice = compute_foreground_mean(report.scores)
        title = f"{report.title}: Dice {dice:.3f} on {len(report.cases)} unseen cases"
        figure.suptitle(title, fontsize=12, fontweight="bold")
        halves: Any = figure.subfigures(1, 2, width_ratios=(6.2, 3.8))
        left, right = halves
        for row, (word, case) in zip(split_rows(left, len(shown)), shown, strict=True):
            draw_case(row, report, word, case)
        left.legend(handles=build_legend_lines(), loc="outside lower center", ncols=2, frameon=False)
        losses, dice, cases = right.subplots(3, 1)
        draw_losses(losses, report.curves)
        draw_dice(dice, report.curves)
        draw_case_dice(cases, report)
        figure.savefig(file, dpi=DPI)


def split_rows(figure: "SubFigure", n: int) -> "list[SubFigure]":
    """Split a figure into `n` parts, one below the other; matplotlib's own call returns no list for n = 1."""
    parts: Any = figure.subfigures(n, 1, squeeze=False)
    return list(parts[:, 0])


def draw_case(row: "SubFigure", report: QuickstartReport, word: str, case: CaseFiles) -> None:
    """Draw a row of slices with the case's name and Dice."""
    slices = cut_slices(read_volume(case), report.labels)
    axes = row.subplots(1, len(slices), squeeze=False)[0]
    for ax, shown in zip(axes, slices, strict=True):
        draw_slice(ax, shown, report.labels, linewidth=1.0)
    row.suptitle(f"{word}: {case.name}, Dice {mean_case_dice(report.scores, case.name):.3f}", fontsize=9)


def build_legend_lines() -> list[Line2D]:
    return [
        Line2D([], [], color=REFERENCE_COLOUR, linewidth=2.4, label="reference"),
        Line2D([], [], color=PREDICTION_COLOUR, linewidth=1.4, label="prediction"),
    ]


def draw_losses(axes: "Axes", curves: TrainingCurves) -> None:
    epochs = np.arange(1, curves.n_epochs + 1)
    axes.plot(epochs, curves.train_loss, color=TRAINING_COLOUR, linewidth=1.8, label="training")
    axes.plot(epochs, curves.validation_loss, color=VALIDATION_COLOUR, linewidth=1.8, label="validation")
    axes.set(title="Loss", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    style_axes(axes)


def draw_dice(axes: "Axes", curves: TrainingCurves) -> None:
    epochs = np.arange(1, curves.n_epochs + 1)
    axes.plot(epochs, curves.dice, ".", color=DICE_COLOUR, markersize=5, alpha=0.6, label="epoch")
    axes.plot(epochs, curves.smooth_dice, color=DICE_COLOUR, linewidth=1.8, label="moving average")
    axes.set(title="Pseudo Dice on validation patches", xlabel="epoch", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="best")
    style_axes(axes)


def draw_case_dice(axes: "Axes", report: QuickstartReport) -> None:
    """Draw, per label, the Dice of every unseen case as a dot and the mean as a bar."""
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
    style_axes(axes)
