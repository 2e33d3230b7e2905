"""The picture: three unseen cases in three planes, learning curves, Dice of every case; for a README."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_mamba.study.evaluation import mean_foreground
from nnunet_mamba.study.report.quickstart_charts import draw_case_dice, draw_dice, draw_losses
from nnunet_mamba.study.report.quickstart_content import (
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    CaseFiles,
    Report,
    case_dice,
    shown_cases,
)
from nnunet_mamba.study.report.slices import cut, draw, read_volume

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

STYLE: dict[Any, Any] = {"font.size": 9.0, "font.family": "sans-serif", "axes.titlesize": 10.0}
DPI = 160


def write_picture(report: Report, file: Path) -> None:
    """A PNG on white, 10 inches wide: cases on the left, charts on the right."""
    shown = shown_cases(report)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(10, max(0.9 + 2.05 * len(shown), 5)), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        title = (
            f"{report.title}: Dice {mean_foreground(report.scores):.3f} on {len(report.cases)} unseen cases"
        )
        figure.suptitle(title, fontsize=12, fontweight="bold")
        halves: Any = figure.subfigures(1, 2, width_ratios=(6.2, 3.8))
        left, right = halves
        for strip, (word, case) in zip(stacked(left, len(shown)), shown, strict=True):
            draw_case(strip, report, word, case)
        left.legend(handles=legend_lines(), loc="outside lower center", ncols=2, frameon=False)
        losses, dice, cases = right.subplots(3, 1)
        draw_losses(losses, report.curves)
        draw_dice(dice, report.curves)
        draw_case_dice(cases, report)
        figure.savefig(file, dpi=DPI)


def stacked(figure: "SubFigure", n: int) -> "list[SubFigure]":
    """`n` parts of a figure, one below the other; matplotlib gives a bare one for n = 1."""
    parts: Any = figure.subfigures(n, 1, squeeze=False)
    return list(parts[:, 0])


def draw_case(strip: "SubFigure", report: Report, word: str, case: CaseFiles) -> None:
    """A row of slices with the case's name and Dice."""
    slices = cut(read_volume(case), report.labels)
    axes = strip.subplots(1, len(slices), squeeze=False)[0]
    for ax, shown in zip(axes, slices, strict=True):
        draw(ax, shown, report.labels, linewidth=1.0)
    strip.suptitle(f"{word}: {case.name}, Dice {case_dice(report.scores, case.name):.3f}", fontsize=9)


def legend_lines() -> list[Line2D]:
    return [
        Line2D([], [], color=REFERENCE_COLOUR, linewidth=2.4, label="reference"),
        Line2D([], [], color=PREDICTION_COLOUR, linewidth=1.4, label="prediction"),
    ]
