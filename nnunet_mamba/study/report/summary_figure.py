"""Picture of one method for a README: cases in three planes on the left, curves and scores on the right."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from nnunet_mamba.study.evaluation import compute_foreground_mean
from nnunet_mamba.study.report.charts import draw_labels, draw_losses, draw_pseudo_dice
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.slices import (
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    ShownCase,
    choose_cases,
    cut_slices,
    draw_slice,
    read_volume,
)
from nnunet_mamba.study.statistics.formats import format_value

FIGURE_STYLE: dict[Any, Any] = {"font.size": 9.0, "font.family": "sans-serif", "axes.titlesize": 10.0}
DPI = 160


def draw_summary(report: StudyReport, shown: list[ShownCase]) -> Figure:
    """Draw on white, 10 inches wide."""
    figure = Figure(figsize=(10, max(0.9 + 2.05 * len(shown), 5)), layout="constrained", facecolor="white")
    metric, mean = report.leading.metric, compute_foreground_mean(report.scores, report.leading.metric)
    title = f"{report.title}: {report.leading.metric_title} {format_value(mean, metric)}"
    figure.suptitle(f"{title} on {report.leading.n_cases} cases", fontsize=12, fontweight="bold")
    halves: Any = figure.subfigures(1, 2, width_ratios=(6.2, 3.8))
    left, right = halves
    rows = left.subfigures(len(shown), 1, squeeze=False)
    for row, case in zip(rows[:, 0], shown, strict=True):
        _draw_case(row, report, case)
    lines = (("reference", REFERENCE_COLOUR, 2.4), ("prediction", PREDICTION_COLOUR, 1.4))
    handles = [Line2D([], [], color=colour, linewidth=width, label=name) for name, colour, width in lines]
    left.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    runs = report.select_runs(method) if (method := report.single) else []
    axes = list(right.subplots(3 if runs else 1, 1, squeeze=False)[:, 0])
    if runs:
        draw_losses(axes[0], runs)
        draw_pseudo_dice(axes[1], runs)
    draw_labels(axes[-1], report, report.leading)
    axes[-1].set_title(f"{report.leading.metric_title} of every case", fontweight="bold")
    return figure


def _draw_case(row: SubFigure, report: StudyReport, case: ShownCase) -> None:
    """Draw a row of slices with the case's name and mean."""
    labels = report.files.labels if report.files else ()
    slices = cut_slices(read_volume(case.files), labels)
    axes = row.subplots(1, len(slices), squeeze=False)[0]
    for ax, shown in zip(axes, slices, strict=True):
        draw_slice(ax, shown, labels)
    row.suptitle(f"{case.heading}, {case.mean}", fontsize=9)


def write_summary_figure(report: StudyReport, file: Path) -> bool:
    """Write the picture as PNG if the report is on one method with images; return whether it was written."""
    shown = choose_cases(report) if report.single else []
    if shown:
        with matplotlib.rc_context(FIGURE_STYLE):
            figure = draw_summary(report, shown)
            FigureCanvasAgg(figure)
            figure.savefig(file, dpi=DPI)
    return bool(shown)
