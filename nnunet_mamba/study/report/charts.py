"""Charts of a study as SVG, each narrow enough for a phone. A method has the same colour in all charts.

A twin without SSM has the colour of its network and hollow marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from nnunet_mamba.nnunet.catalogue import TWIN as NO_SSM
from nnunet_mamba.study.report.content import (
    StudyReport,
    find_twins,
    format_label,
    format_metric,
    select_case_means,
)
from nnunet_mamba.study.report.figures import get_axis_limits, render_axes, style_axes, wrap_name
from nnunet_mamba.study.report.training_curves import TrainingCurves
from nnunet_mamba.study.statistics import Comparison, DatasetComparison
from nnunet_mamba.study.statistics.results import CASE_MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#f43f5e", "#8b5cf6", "#06b6d4", "#a3a30a", "#ec4899", "#7c8796")
NEUTRAL = "#7c8796"
WIDTH_IN = 4.3


@dataclass(frozen=True)
class MethodStyle:
    """Colour and marks of a method."""

    colour: str
    hollow: bool

    @property
    def marker_face(self) -> str:
        return "none" if self.hollow else self.colour

    @property
    def linestyle(self) -> str:
        return ":" if self.hollow else "-"


def get_method_styles(report: StudyReport) -> dict[str, MethodStyle]:
    """Return the methods' styles by their short names."""
    twins = find_twins(report.leading)
    groups = {name: twins.get(name, name) for name in report.methods}
    colours = {group: COLOURS[i % len(COLOURS)] for i, group in enumerate(dict.fromkeys(groups.values()))}
    return {
        name: MethodStyle(colours[groups[name]], NO_SSM in method.trainer)
        for name, method in report.methods.items()
    }


def plot_case_means(report: StudyReport, study: DatasetComparison) -> str:
    """Plot a row per method: box and dots of the case means, above them fold means as diamonds."""
    names, styles = list(report.methods), get_method_styles(report)
    folds = {m.method: m.fold_means for m in study.methods}
    case_means = {name: np.array(list(study.case_means[name].values())) for name in names}
    limits = get_axis_limits(case_means.values())

    def draw(axes: Axes) -> None:
        for row, name in enumerate(names):
            _draw_box(axes, row, case_means[name], styles[name], limits)
            means = list(folds[name].values())
            axes.plot(
                means, [row - 0.36] * len(means), "D", markersize=3.4, color=styles[name].colour,
                markerfacecolor=styles[name].marker_face,
            )  # fmt: skip
        _label_rows(axes, names, format_metric(study))
        axes.set_xlim(limits)

    return render_axes((WIDTH_IN, 0.75 + 0.48 * len(names)), draw)


def plot_labels(report: StudyReport, study: DatasetComparison) -> str:
    """Plot a box with dots per label and method."""
    names, styles = list(report.methods), get_method_styles(report)
    values: dict[str, dict[str, list[float]]] = {}
    for name, method in report.methods.items():
        for score in report.select_scores(method, study.metric):
            values.setdefault(name, {}).setdefault(score.label, []).append(score.value)
    step = len(names) + 1.0
    limits = get_axis_limits(np.array(each) for own in values.values() for each in own.values())

    def draw(axes: Axes) -> None:
        for place, (number, _) in enumerate(study.labels):
            for k, name in enumerate(names):
                _draw_box(
                    axes, place * step + k, np.array(values[name].get(number, [])), styles[name], limits, 0.3
                )
            if place:
                axes.axhline(place * step - 1, color=NEUTRAL, linewidth=0.5, alpha=0.4)
        _draw_legend(axes, names, styles)
        _label_groups(axes, study, step, format_metric(study))

    return render_axes((WIDTH_IN, 1.0 + 0.2 * len(names) + 0.16 * step * len(study.labels)), draw)


def plot_differences(report: StudyReport, study: DatasetComparison, against: str) -> str:
    """Plot every case's difference as a dot, and below them the mean with its interval."""
    compared, styles = select_case_means(study, against), get_method_styles(report)
    titles = [f"{c.method}\n− {c.other}" for c in compared]
    pairs = [
        np.array([v - study.case_means[c.other][case] for case, v in study.case_means[c.method].items()])
        for c in compared
    ]
    limits = get_axis_limits(
        [*pairs, np.array([c.ci_low for c in compared]), np.array([c.ci_high for c in compared])]
    )

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        for row, c in enumerate(compared):
            _draw_dots(axes, row - 0.12, pairs[row], styles[c.method], limits, 0.14)
            _draw_interval(axes, row + 0.25, c, styles[c.method])
        _label_rows(axes, titles, _build_difference_title(study))
        axes.set_xlim(limits)

    n_lines = max(wrap_name(title).count("\n") + 1 for title in titles)
    return render_axes((WIDTH_IN, 0.75 + max(0.55, 0.17 * n_lines) * len(compared)), draw)


def plot_label_differences(report: StudyReport, study: DatasetComparison, against: str) -> str:
    """Plot mean differences with intervals per label, filled if the test is significant after Holm."""
    styles = get_method_styles(report)
    compared = [c for c in study.comparisons if c.against == against and c.label != CASE_MEAN]
    pairs = list(dict.fromkeys((c.method, c.other) for c in compared))
    step = len(pairs) + 1.0

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        places = {number: i for i, (number, _) in enumerate(study.labels)}
        for c in compared:
            row = places[c.label] * step + pairs.index((c.method, c.other))
            _draw_interval(axes, row, c, styles[c.method], filled=c.verdict in ("better", "worse"))
        for method, other in pairs:
            axes.plot(
                [], [], styles[method].linestyle, color=styles[method].colour, label=f"{method} − {other}"
            )
        _place_legend(axes)
        _label_groups(axes, study, step, _build_difference_title(study))

    return render_axes((WIDTH_IN, 1.0 + 0.2 * len(pairs) + 0.16 * step * len(study.labels)), draw)


def plot_curves(report: StudyReport, value: Callable[[TrainingCurves], Sequence[float]], title: str) -> str:
    """Plot a line per fold; `value` selects the series from the curves."""
    styles = get_method_styles(report)

    def draw(axes: Axes) -> None:
        shown = {name: report.select_runs(method) for name, method in report.methods.items()}
        for name, runs in shown.items():
            for run in runs:
                y = value(run.curves)
                axes.plot(
                    np.arange(1, len(y) + 1), y, color=styles[name].colour, linewidth=1.1, alpha=0.75,
                    linestyle=styles[name].linestyle,
                )  # fmt: skip
        with_curves = [name for name, runs in shown.items() if runs]
        _draw_legend(axes, with_curves, styles, lines=True)
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style_axes(axes)

    return render_axes((WIDTH_IN, 2.6 + 0.2 * len(report.methods)), draw)


def plot_cost(report: StudyReport, hours: Mapping[str, float]) -> str:
    """Plot the leading metric against the hours of training."""
    styles, study = get_method_styles(report), report.leading
    means = {m.method: m.mean for m in study.methods}

    def draw(axes: Axes) -> None:
        for name, spent in hours.items():
            axes.plot(
                spent, means[name], "o", markersize=8, color=styles[name].colour,
                markerfacecolor=styles[name].marker_face, label=name,
            )  # fmt: skip
        _place_legend(axes)
        axes.set(xlabel="hours of training per fold", ylabel=format_metric(study))
        axes.margins(0.15)
        style_axes(axes)

    return render_axes((WIDTH_IN, 2.4 + 0.2 * len(hours)), draw)


def _draw_dots(
    axes: Axes, row: float, values: np.ndarray, style: MethodStyle, limits: tuple[float, float], height: float
) -> None:
    """Draw all values as dots, those beyond the limits as arrows at the border."""
    values = values[np.isfinite(values)]
    heights = row + np.random.default_rng(len(values)).uniform(-height, height, values.size)
    inside = (values >= limits[0]) & (values <= limits[1])
    axes.plot(
        values[inside], heights[inside], "o", color=style.colour, alpha=0.3, markersize=2.6, mew=0, zorder=1
    )
    for beyond, marker, place in ((values < limits[0], "<", 0.012), (values > limits[1], ">", 0.988)):
        axes.plot(
            np.full(beyond.sum(), place), heights[beyond], marker, color=style.colour, markersize=3.6, mew=0,
            transform=axes.get_yaxis_transform(), zorder=3,
        )  # fmt: skip


def _draw_box(
    axes: Axes,
    row: float,
    values: np.ndarray,
    style: MethodStyle,
    limits: tuple[float, float],
    height: float = 0.26,
) -> None:
    """Draw all values as dots, the quartiles as a box and the median as a line."""
    values = values[np.isfinite(values)]
    if not values.size:
        return
    _draw_dots(axes, row, values, style, limits, height)
    low, middle, high = np.percentile(values, (25, 50, 75))
    axes.barh(
        row, high - low, left=low, height=2 * height, edgecolor=style.colour, linewidth=1.2,
        facecolor="none" if style.hollow else style.colour + "40", zorder=2,
    )  # fmt: skip
    axes.vlines(middle, row - height, row + height, color=style.colour, linewidth=2, zorder=3)


def _draw_interval(axes: Axes, row: float, c: Comparison, style: MethodStyle, filled: bool = True) -> None:
    """Draw the mean difference, filled or hollow, with its interval."""
    if np.isfinite([c.ci_low, c.ci_high]).all():
        axes.hlines(row, c.ci_low, c.ci_high, color=style.colour, linewidth=2, linestyle=style.linestyle)
    axes.plot(
        c.difference, row, "o", color=style.colour, markersize=5, zorder=4,
        markerfacecolor=style.colour if filled else "none",
    )  # fmt: skip


def _build_difference_title(study: DatasetComparison) -> str:
    better = "right" if study.higher_is_better else "left"
    return f"difference in {format_metric(study)} ({better}: first is better)"


def _label_rows(
    axes: Axes, titles: Sequence[str], xlabel: str, places: Sequence[float] | None = None
) -> None:
    axes.set_yticks(range(len(titles)) if places is None else places, [wrap_name(title) for title in titles])
    if places is None:
        axes.set_ylim(len(titles) - 0.45, -0.6)
    axes.set_xlabel(xlabel)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)


def _label_groups(axes: Axes, study: DatasetComparison, step: float, xlabel: str) -> None:
    """Name the labels at the middle of their groups of rows, which are `step` apart."""
    titles = [format_label(label) for label in study.labels]
    _label_rows(axes, titles, xlabel, [i * step + (step - 2) / 2 for i in range(len(titles))])
    axes.set_ylim(len(titles) * step - 1, -1)


def _draw_legend(
    axes: Axes, names: Sequence[str], styles: Mapping[str, MethodStyle], lines: bool = False
) -> None:
    """Draw a legend of methods, one per line."""
    for name in names:
        if lines:
            style: dict[str, Any] = {"linestyle": styles[name].linestyle}
        else:
            style = {"marker": "s", "linestyle": "", "markerfacecolor": styles[name].marker_face}
        axes.plot([], [], color=styles[name].colour, label=name, **style)
    _place_legend(axes)


def _place_legend(axes: Axes) -> None:
    """Draw the legend of what is plotted, above the axes."""
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
