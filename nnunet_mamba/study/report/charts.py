"""Charts of a study as SVG, each narrow enough for a phone. A method has the same colour in all charts.

A twin without SSM has the colour of its network and hollow marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nnunet_mamba.nnunet.catalogue import TWIN as NO_SSM
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.figures import get_axis_limits, render_axes, style_axes, wrap_name
from nnunet_mamba.study.report.training_curves import TrainingCurves, TrainingRun
from nnunet_mamba.study.statistics import Comparison, DatasetComparison
from nnunet_mamba.study.statistics.formats import format_label
from nnunet_mamba.study.statistics.results import CASE_MEAN

COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#f43f5e", "#8b5cf6", "#06b6d4", "#a3a30a", "#ec4899", "#7c8796")
NEUTRAL = "#7c8796"
WIDTH_IN = 4.3
MANY = 30  # dots in a row, which are drawn small


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
    twins = report.leading.twins
    groups = {name: twins.get(name, name) for name in report.methods}
    colours = {group: COLOURS[i % len(COLOURS)] for i, group in enumerate(dict.fromkeys(groups.values()))}
    return {
        name: MethodStyle(colours[groups[name]], NO_SSM in method.trainer)
        for name, method in report.methods.items()
    }


def plot_case_means(report: StudyReport, result: DatasetComparison) -> str:
    """Plot a row per method: box and dots of the case means, above them fold means as diamonds."""
    names, styles = list(report.methods), get_method_styles(report)
    folds = {m.method: m.fold_means for m in result.methods}
    case_means = {name: np.array(list(result.case_means[name].values())) for name in names}
    limits = get_axis_limits(case_means.values())

    def draw(axes: Axes) -> None:
        for row, name in enumerate(names):
            _draw_box(axes, row, case_means[name], styles[name], limits)
            means = list(folds[name].values())
            axes.plot(
                means, [row - 0.36] * len(means), "D", markersize=3.4, color=styles[name].colour,
                markerfacecolor=styles[name].marker_face,
            )  # fmt: skip
        _label_rows(axes, names, result.metric_title)
        axes.set_xlim(limits)

    return render_axes((WIDTH_IN, 0.75 + 0.48 * len(names)), draw)


def plot_labels(report: StudyReport, result: DatasetComparison) -> str:
    """Plot a box with dots per label and method."""
    n_methods, n_labels = len(report.methods), len(result.labels)
    height = 1.0 + 0.2 * n_methods + 0.16 * (n_methods + 1) * n_labels
    return render_axes((WIDTH_IN, height), lambda axes: draw_labels(axes, report, result))


def draw_labels(axes: Axes, report: StudyReport, result: DatasetComparison) -> None:
    names, styles = list(report.methods), get_method_styles(report)
    values: dict[tuple[str, str], list[float]] = {}
    for name, method in report.methods.items():
        for score in report.select_scores(method, result.metric):
            values.setdefault((score.label, name), []).append(score.value)
    step = len(names) + 1.0
    limits = get_axis_limits(map(np.array, values.values()))
    for place, (number, _) in enumerate(result.labels):
        for k, name in enumerate(names):
            row = np.array(values.get((number, name), []))
            _draw_box(axes, place * step + k, row, styles[name], limits, 0.3)
        if place:
            axes.axhline(place * step - 1, color=NEUTRAL, linewidth=0.5, alpha=0.4)
    if len(names) > 1:
        _draw_legend(axes, names, styles)
    _label_groups(axes, result, step, result.metric_title)
    axes.set_xlim(limits)


def plot_differences(report: StudyReport, result: DatasetComparison, against: str) -> str:
    """Plot every case's difference as a dot, and below them the mean with its interval."""
    compared, styles = result.select_case_means(against), get_method_styles(report)
    titles = [f"{c.method}\n− {c.other}" for c in compared]
    pairs = [
        np.array([v - result.case_means[c.other][case] for case, v in result.case_means[c.method].items()])
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
        _label_rows(axes, titles, _build_difference_title(result))
        axes.set_xlim(limits)

    n_lines = max(wrap_name(title).count("\n") + 1 for title in titles)
    return render_axes((WIDTH_IN, 0.75 + max(0.55, 0.17 * n_lines) * len(compared)), draw)


def plot_label_differences(report: StudyReport, result: DatasetComparison, against: str) -> str:
    """Plot mean differences with intervals per label, filled if the test is significant after Holm."""
    styles = get_method_styles(report)
    compared = [c for c in result.comparisons if c.against == against and c.label != CASE_MEAN]
    pairs = list(dict.fromkeys((c.method, c.other) for c in compared))
    step = len(pairs) + 1.0

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        places = {number: i for i, (number, _) in enumerate(result.labels)}
        for c in compared:
            row = places[c.label] * step + pairs.index((c.method, c.other))
            _draw_interval(axes, row, c, styles[c.method], filled=c.verdict in ("better", "worse"))
        for method, other in pairs:
            axes.plot(
                [], [], styles[method].linestyle, color=styles[method].colour, label=f"{method} − {other}"
            )
        _place_legend(axes)
        _label_groups(axes, result, step, _build_difference_title(result))

    return render_axes((WIDTH_IN, 1.0 + 0.2 * len(pairs) + 0.16 * step * len(result.labels)), draw)


def plot_curves(report: StudyReport, value: Callable[[TrainingCurves], Sequence[float]], title: str) -> str:
    """Plot a line per fold; `value` selects the series from the curves."""
    styles = get_method_styles(report)

    def draw(axes: Axes) -> None:
        for name, method in report.methods.items():
            line = {"color": styles[name].colour, "linestyle": styles[name].linestyle}
            for run in report.select_runs(method):
                _draw_series(axes, value(run.curves), name, linewidth=1.1, alpha=0.75, **line)
        _place_legend(axes)
        _label_epochs(axes, ylabel=title)

    return render_axes((WIDTH_IN, 2.6 + 0.2 * len(report.methods)), draw)


def draw_losses(axes: Axes, runs: Sequence[TrainingRun]) -> None:
    """Draw the training and the validation loss of one method, a line per fold."""
    for run in runs:
        _draw_series(axes, run.curves.train_loss, "training", color=COLOURS[0])
        _draw_series(axes, run.curves.validation_loss, "validation", color=COLOURS[3])
    axes.legend(frameon=False)
    _label_epochs(axes, title="Loss")


def draw_pseudo_dice(axes: Axes, runs: Sequence[TrainingRun]) -> None:
    """Draw the pseudo Dice of one method's epochs as dots, its moving average as a line per fold."""
    dots = {"linestyle": "", "marker": ".", "markersize": 5, "alpha": 0.6}
    for run in runs:
        _draw_series(axes, run.curves.dice, "epoch", color=COLOURS[2], **dots)
        _draw_series(axes, run.curves.smooth_dice, "moving average", color=COLOURS[2])
    axes.legend(frameon=False)
    _label_epochs(axes, title="Pseudo Dice on validation patches", ylim=(0, 1))


def _draw_series(axes: Axes, values: Sequence[float], label: str, **style: Any) -> None:
    """Draw a value per epoch; of several series of one label the legend shows the first."""
    known = axes.get_legend_handles_labels()[1]
    epochs = np.arange(1, len(values) + 1)
    axes.plot(epochs, values, label=None if label in known else label, **{"linewidth": 1.8, **style})


def _label_epochs(axes: Axes, **texts: Any) -> None:
    axes.set(xlabel="epoch", **texts)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style_axes(axes)


def plot_cost(report: StudyReport, hours: Mapping[str, float]) -> str:
    """Plot the leading metric against the hours of training."""
    styles, result = get_method_styles(report), report.leading
    means = {m.method: m.mean for m in result.methods}

    def draw(axes: Axes) -> None:
        for name, spent in hours.items():
            axes.plot(
                spent, means[name], "o", markersize=8, color=styles[name].colour,
                markerfacecolor=styles[name].marker_face, label=name,
            )  # fmt: skip
        _place_legend(axes)
        axes.set(xlabel="hours of training per fold", ylabel=result.metric_title)
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
    size, alpha = (2.6, 0.3) if values.size > MANY else (4, 0.5)
    axes.plot(values[inside], heights[inside], "o", color=style.colour, alpha=alpha, markersize=size, mew=0)
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


def _build_difference_title(result: DatasetComparison) -> str:
    better = "right" if result.higher_is_better else "left"
    return f"difference in {result.metric_title} ({better}: first is better)"


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


def _label_groups(axes: Axes, result: DatasetComparison, step: float, xlabel: str) -> None:
    """Name the labels at the middle of their groups of rows, which are `step` apart."""
    titles = [format_label(label) for label in result.labels]
    _label_rows(axes, titles, xlabel, [i * step + (step - 2) / 2 for i in range(len(titles))])
    axes.set_ylim(len(titles) * step - 1, -1)


def _draw_legend(axes: Axes, names: Sequence[str], styles: Mapping[str, MethodStyle]) -> None:
    """Draw a legend of methods, one per line."""
    for name in names:
        face, colour = styles[name].marker_face, styles[name].colour
        axes.plot([], [], color=colour, label=name, marker="s", linestyle="", markerfacecolor=face)
    _place_legend(axes)


def _place_legend(axes: Axes) -> None:
    """Draw the legend of what is plotted, above the axes."""
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
