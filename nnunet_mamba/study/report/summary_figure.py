"""Picture of one method for a README: cases in three planes on the left, curves and scores on the right."""

from typing import Any

import matplotlib.style
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from nnunet_mamba.study.evaluation import compute_foreground_mean
from nnunet_mamba.study.report.charts import draw_labels, draw_losses, draw_pseudo_dice
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.figures import STYLE, render_png
from nnunet_mamba.study.report.shown_cases import ShownCase
from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR, draw_slice
from nnunet_mamba.study.statistics.formats import format_value

DPI = 160


def render_summary(report: StudyReport) -> bytes | None:
    """Return the picture as PNG; None if the report is on several methods or has no images."""
    if not report.single or not report.shown_cases:
        return None
    with matplotlib.style.context(["default", STYLE]):
        return render_png(draw_summary(report, report.shown_cases), DPI)


def draw_summary(report: StudyReport, shown: list[ShownCase]) -> Figure:
    """Draw on white, 10 inches wide."""
    figure = Figure(figsize=(10, max(0.9 + 2.05 * len(shown), 5)), layout="constrained", facecolor="white")
    metric, mean = report.leading.metric, compute_foreground_mean(report.scores, report.leading.metric)
    title = f"{report.title}: {report.leading.metric_title} {format_value(mean, metric)}"
    figure.suptitle(f"{title} on {report.leading.n_cases} cases", fontsize=12, fontweight="bold")
    if report.note_on_seeds:
        figure.supxlabel(report.note_on_seeds, fontsize=9)
    halves: Any = figure.subfigures(1, 2, width_ratios=(6.2, 3.8))
    left, right = halves
    rows = left.subfigures(len(shown), 1, squeeze=False)
    for row, case in zip(rows[:, 0], shown, strict=True):
        _draw_case(row, report, case)
    outlines = (("reference", REFERENCE_COLOUR, 2.4), ("prediction", PREDICTION_COLOUR, 1.4))
    handles = [Line2D([], [], color=colour, linewidth=width, label=name) for name, colour, width in outlines]
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
    labels = report.predicted.labels if report.predicted else ()
    axes = row.subplots(1, len(case.slices), squeeze=False)[0]
    for ax, shown in zip(axes, case.slices, strict=True):
        draw_slice(ax, shown, labels)
    row.suptitle(f"{case.heading}, {case.mean}", fontsize=9)
