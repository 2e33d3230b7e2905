"""The charts of a study, each narrow enough for a phone; methods keep their colour from chart to chart.

A twin without SSM has the colour of its network, and hollow marks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_mamba.nnunet.catalogue import TWIN as NO_SSM
from nnunet_mamba.study.report.charts import tidy
from nnunet_mamba.study.report.markup import CHART_STYLE, svg_of
from nnunet_mamba.study.report.study.content import StudyReport, on_case_means, titled, twins
from nnunet_mamba.study.statistics import Comparison, DatasetComparison
from nnunet_mamba.study.statistics.results import BASELINE, CASE_MEAN, TWIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#f43f5e", "#8b5cf6", "#06b6d4", "#a3a30a", "#ec4899", "#7c8796")
NEUTRAL = "#7c8796"
WIDTH_IN = 4.3


@dataclass(frozen=True)
class Look:
    colour: str
    hollow: bool

    @property
    def face(self) -> str:
        return "none" if self.hollow else self.colour

    @property
    def line(self) -> str:
        return ":" if self.hollow else "-"


def looks(report: StudyReport) -> dict[str, Look]:
    """Of each method, by its short name."""
    twin_of = twins(report.leading)
    families = {name: twin_of.get(name, name) for name in report.methods}
    colours = {family: COLOURS[i % len(COLOURS)] for i, family in enumerate(dict.fromkeys(families.values()))}
    return {
        name: Look(colours[families[name]], NO_SSM in method.trainer)
        for name, method in report.methods.items()
    }


def drawn(height_in: float, draw: Callable[[Axes], None]) -> str:
    """One pair of axes as SVG."""
    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure.add_subplot())
        return svg_of(figure)


def case_means_chart(report: StudyReport, study: DatasetComparison) -> str:
    """Box and dots of the case means, a row per method, and the mean of each fold above as a diamond."""
    names, look = list(report.methods), looks(report)
    folds = {m.method: m.fold_means for m in study.methods}
    means_of = {name: np.array(list(study.case_means[name].values())) for name in names}
    limits = span(means_of.values())

    def draw(axes: Axes) -> None:
        for row, name in enumerate(names):
            _box(axes, row, means_of[name], look[name], limits)
            means = list(folds[name].values())
            axes.plot(
                means, [row - 0.36] * len(means), "D", markersize=3.4, color=look[name].colour,
                markerfacecolor=look[name].face,
            )  # fmt: skip
        _rows(axes, names, titled(study))
        axes.set_xlim(limits)

    return drawn(0.75 + 0.48 * len(names), draw)


def labels_chart(report: StudyReport, study: DatasetComparison) -> str:
    """Box and dots per label, the methods below each other."""
    names, look = list(report.methods), looks(report)
    values: dict[str, dict[str, list[float]]] = {}
    for name, method in report.methods.items():
        for score in report.scores_of(method, study.metric):
            values.setdefault(name, {}).setdefault(score.label, []).append(score.value)
    step = len(names) + 1.0
    limits = span(np.array(each) for own in values.values() for each in own.values())

    def draw(axes: Axes) -> None:
        for place, (number, _) in enumerate(study.labels):
            for k, name in enumerate(names):
                _box(axes, place * step + k, np.array(values[name].get(number, [])), look[name], limits, 0.3)
            if place:
                axes.axhline(place * step - 1, color=NEUTRAL, linewidth=0.5, alpha=0.4)
        _legend(axes, names, look)
        titles = [label_title(label) for label in study.labels]
        _rows(axes, titles, titled(study), [i * step + (step - 2) / 2 for i in range(len(titles))])
        axes.set_ylim(len(titles) * step - 1, -1)

    return drawn(1.0 + 0.2 * len(names) + 0.16 * step * len(study.labels), draw)


def differences_chart(report: StudyReport, study: DatasetComparison, against: str) -> str:
    """Every case's difference as a dot; its mean with the interval below."""
    compared, look = on_case_means(study, against), looks(report)
    titles = [f"{c.method}\n− {c.other}" for c in compared]
    pairs = [
        np.array([v - study.case_means[c.other][case] for case, v in study.case_means[c.method].items()])
        for c in compared
    ]
    limits = span([*pairs, np.array([c.ci_low for c in compared]), np.array([c.ci_high for c in compared])])

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        for row, c in enumerate(compared):
            _dots(axes, row - 0.12, pairs[row], look[c.method], limits, 0.14)
            _interval(axes, row + 0.25, c, look[c.method])
        _rows(axes, titles, _difference_title(study))
        axes.set_xlim(limits)

    n_lines = max(broken(title).count("\n") + 1 for title in titles)
    return drawn(0.75 + max(0.55, 0.17 * n_lines) * len(compared), draw)


def label_differences_chart(report: StudyReport, study: DatasetComparison, against: str) -> str:
    """Means with intervals per label; full where the test is significant after Holm."""
    look = looks(report)
    compared = [c for c in study.comparisons if c.against == against and c.label != CASE_MEAN]
    pairs = list(dict.fromkeys((c.method, c.other) for c in compared))
    step = len(pairs) + 1.0

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        places = {number: i for i, (number, _) in enumerate(study.labels)}
        for c in compared:
            row = places[c.label] * step + pairs.index((c.method, c.other))
            _interval(axes, row, c, look[c.method], full=c.verdict in ("better", "worse"))
        for method, other in pairs:
            axes.plot([], [], look[method].line, color=look[method].colour, label=f"{method} − {other}")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
        titles = [label_title(label) for label in study.labels]
        _rows(axes, titles, _difference_title(study), [i * step + (step - 2) / 2 for i in range(len(titles))])
        axes.set_ylim(len(titles) * step - 1, -1)

    return drawn(1.0 + 0.2 * len(pairs) + 0.16 * step * len(study.labels), draw)


def curves_chart(report: StudyReport, value: Callable[[Any], Sequence[float]], title: str) -> str:
    """A line per fold; `value` takes what is shown from the curves."""
    look = looks(report)

    def draw(axes: Axes) -> None:
        shown = {name: report.trainings_of(method) for name, method in report.methods.items()}
        for name, trainings in shown.items():
            for training in trainings:
                y = value(training.curves)
                axes.plot(
                    np.arange(1, len(y) + 1), y, color=look[name].colour, linewidth=1.1, alpha=0.75,
                    linestyle=look[name].line,
                )  # fmt: skip
        with_curves = [name for name, trainings in shown.items() if trainings]
        _legend(axes, with_curves, look, lines=True)
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)

    return drawn(2.6 + 0.2 * len(report.methods), draw)


def cost_chart(report: StudyReport, hours: Mapping[str, float]) -> str:
    """The leading metric against the hours that training took."""
    look, study = looks(report), report.leading
    means = {m.method: m.mean for m in study.methods}

    def draw(axes: Axes) -> None:
        for name, spent in hours.items():
            axes.plot(
                spent, means[name], "o", markersize=8, color=look[name].colour,
                markerfacecolor=look[name].face, label=name,
            )  # fmt: skip
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
        axes.set(xlabel="hours of training per fold", ylabel=titled(study))
        axes.margins(0.15)
        tidy(axes)

    return drawn(2.4 + 0.2 * len(hours), draw)


def families(study: DatasetComparison) -> list[str]:
    """Twins first, if there are any."""
    return [against for against in (TWIN, BASELINE) if on_case_means(study, against)]


def label_title(label: tuple[str, str]) -> str:
    number, name = label
    return name or f"label {number}"


def span(groups: Iterable[np.ndarray]) -> tuple[float, float]:
    """From where to where to draw, so that a few missed labels do not squeeze all others together."""
    finite = [values[np.isfinite(values)] for values in groups]
    kept = np.concatenate(
        [np.percentile(values, (3, 97)) for values in finite if values.size] or [[0.0, 1.0]]
    )
    low, high = float(kept.min()), float(kept.max())
    margin = 0.35 * (high - low) or 0.05 * abs(high) or 1.0
    everything = np.concatenate([kept, *finite])
    pad = 0.04 * (high - low + 2 * margin)
    return max(low - margin, float(everything.min()) - pad), min(high + margin, float(everything.max()) + pad)


def _dots(
    axes: Axes, row: float, values: np.ndarray, look: Look, limits: tuple[float, float], height: float
) -> None:
    """All values; those beyond the limits as arrows at the border."""
    values = values[np.isfinite(values)]
    heights = row + np.random.default_rng(len(values)).uniform(-height, height, values.size)
    inside = (values >= limits[0]) & (values <= limits[1])
    axes.plot(
        values[inside], heights[inside], "o", color=look.colour, alpha=0.3, markersize=2.6, mew=0, zorder=1
    )
    for beyond, marker, place in ((values < limits[0], "<", 0.012), (values > limits[1], ">", 0.988)):
        axes.plot(
            np.full(beyond.sum(), place), heights[beyond], marker, color=look.colour, markersize=3.6, mew=0,
            transform=axes.get_yaxis_transform(), zorder=3,
        )  # fmt: skip


def _box(
    axes: Axes, row: float, values: np.ndarray, look: Look, limits: tuple[float, float], height: float = 0.26
) -> None:
    """Dots of all values; quartiles as a box, the median as a line."""
    values = values[np.isfinite(values)]
    if not values.size:
        return
    _dots(axes, row, values, look, limits, height)
    low, middle, high = np.percentile(values, (25, 50, 75))
    axes.barh(
        row, high - low, left=low, height=2 * height, edgecolor=look.colour, linewidth=1.2,
        facecolor="none" if look.hollow else look.colour + "40", zorder=2,
    )  # fmt: skip
    axes.vlines(middle, row - height, row + height, color=look.colour, linewidth=2, zorder=3)


def broken(text: str, width: int = 17) -> str:
    """Long names in lines, broken after spaces and underscores, so that the axes keep their room."""
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for part in re.findall(r"[^_ ]+[_ ]*|[_ ]+", line):
            if lines[-1] and len((lines[-1] + part).rstrip("_ ")) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip(" ") for line in lines)


def _interval(axes: Axes, row: float, c: Comparison, look: Look, full: bool = True) -> None:
    if np.isfinite([c.ci_low, c.ci_high]).all():
        axes.hlines(row, c.ci_low, c.ci_high, color=look.colour, linewidth=2, linestyle=look.line)
    axes.plot(
        c.difference, row, "o", color=look.colour, markersize=5, zorder=4,
        markerfacecolor=look.colour if full else "none",
    )  # fmt: skip


def _difference_title(study: DatasetComparison) -> str:
    better = "right" if study.higher_is_better else "left"
    return f"difference in {titled(study)} ({better}: first is better)"


def _rows(axes: Axes, titles: Sequence[str], xlabel: str, places: Sequence[float] | None = None) -> None:
    axes.set_yticks(range(len(titles)) if places is None else places, [broken(title) for title in titles])
    if places is None:
        axes.set_ylim(len(titles) - 0.45, -0.6)
    axes.set_xlabel(xlabel)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)


def _legend(axes: Axes, names: Sequence[str], look: Mapping[str, Look], lines: bool = False) -> None:
    """Above the axes, a method per line."""
    for name in names:
        if lines:
            style: dict[str, Any] = {"linestyle": look[name].line}
        else:
            style = {"marker": "s", "linestyle": "", "markerfacecolor": look[name].face}
        axes.plot([], [], color=look[name].colour, label=name, **style)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
