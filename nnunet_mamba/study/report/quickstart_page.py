"""Page of the quickstart: one HTML file about one training."""

import math
import shlex
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.study.evaluation import Score, compute_foreground_mean, summarise
from nnunet_mamba.study.report.content import format_number
from nnunet_mamba.study.report.figures import render_axes
from nnunet_mamba.study.report.files import CaseFiles
from nnunet_mamba.study.report.html import build_key_numbers, build_page, build_section, build_table
from nnunet_mamba.study.report.quickstart_content import QuickstartReport, choose_cases, mean_case_dice
from nnunet_mamba.study.report.quickstart_figure import draw_case_dice, draw_dice, draw_losses
from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR, render_slices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHART_SIZE_IN = (3.6, 3.0)


def write_quickstart_page(report: QuickstartReport, file: Path) -> None:
    """Write the page, whole or not at all."""
    score_tables = (build_score_table(report.scores), build_case_details(report.scores))
    cases = (build_case_figure(report, word, case) for word, case in choose_cases(report))
    parts = (
        build_header(report),
        build_section("Scores of unseen cases", *score_tables),
        build_section("Unseen cases", build_legend(), *cases),
        build_section("Training", build_charts(report)),
        build_section("Time", build_stage_table(report)),
        build_section("Commands", "<p>In a shell, this gives the same:</p>", build_commands(report)),
        build_section("Made with", build_table(("", ""), [*report.facts, *report.versions])),
    )
    write_text(file, build_page(report.title, "".join(parts)))


def build_header(report: QuickstartReport) -> str:
    """Return the title and the numbers that matter most."""
    numbers = [
        ("mean foreground Dice", f"{compute_foreground_mean(report.scores):.3f}"),
        ("unseen cases", str(len(report.cases))),
        ("minutes in all", format_minutes(sum(stage.seconds for stage in report.stages))),
        *report.facts[:3],
    ]
    return f"<h1>{escape(report.title)}</h1>\n{build_key_numbers(numbers)}"


def build_score_table(scores: Sequence[Score]) -> str:
    """Return a row per label: Dice and HD95, mean ± SD over the cases where they are defined."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    counts: dict[tuple[str, str], tuple[str, str]] = {}
    for row in summarise(scores):
        key = (row.label_name, row.label)
        rows.setdefault(key, {})[row.metric] = format_mean_sd(row.mean, row.sd, _n_digits(row.metric))
        counts[key] = (str(row.n_cases), str(row.n_excluded))
    body = [
        (name, cell["dice"], cell["hd95"], *counts[name, label], label)
        for (name, label), cell in rows.items()
    ]
    means = (f"{compute_foreground_mean(scores):.3f}", f"{compute_foreground_mean(scores, 'hd95'):.2f}")
    body.append(("mean of labels", *means, "", "", ""))
    header = ("label", "Dice", "HD95 (mm)", "cases", "not counted", "value")
    note = (
        "<p>Mean ± standard deviation over cases. A label that neither reference nor prediction has is not "
        "counted; one that only one of them has scores Dice 0 and the image's diagonal.</p>"
    )
    return build_table(header, body) + note


def build_case_details(scores: Sequence[Score]) -> str:
    """Return every number, below a summary that the reader opens."""
    body = [
        (
            s.case,
            s.label_name,
            s.metric,
            format_number(s.value, _n_digits(s.metric)),
            str(s.n_voxels),
        )
        for s in scores
    ]
    header = ("case", "label", "metric", "value", "voxels")
    return f"<details><summary>every case</summary>{build_table(header, body)}</details>"


def build_legend() -> str:
    swatch = '<i class="swatch" style="background:{}"></i>{}'
    names = ((REFERENCE_COLOUR, "reference"), (PREDICTION_COLOUR, "prediction"))
    return "<p>Outlines:" + "".join(swatch.format(*pair) for pair in names) + "</p>"


def build_case_figure(report: QuickstartReport, word: str, case: CaseFiles) -> str:
    """Return the slices of one case, on black, to one scale."""
    panels = "".join(
        f'<div><img alt="{plane} slice of {escape(case.name)}" src="{uri}">{plane}</div>'
        for uri, plane in render_slices(case, report.labels, height_in=2.6, linewidth=1.1, dpi=110)
    )
    per_label = ", ".join(
        f"{escape(score.label_name)} {format_number(score.value, 3)}"
        for score in report.scores
        if score.case == case.name and score.metric == "dice"
    )
    mean = f"{mean_case_dice(report.scores, case.name):.3f}"
    caption = f"<b>{word}</b>: {escape(case.name)}, Dice {mean} ({per_label})"
    return f'<figure><div class="planes">{panels}</div><figcaption>{caption}</figcaption></figure>'


def build_charts(report: QuickstartReport) -> str:
    """Return the charts as SVG, side by side where there is room."""
    charts: dict[str, Callable[[Axes], None]] = {
        "nnU-Net's loss, the mean over an epoch.": lambda axes: draw_losses(axes, report.curves),
        "Dots: Dice of patches of the validation cases, in an epoch. Line: nnU-Net's moving average, nine "
        "parts of what it was and one part of the new epoch, by which it chooses checkpoint_best.pth.": (
            lambda axes: draw_dice(axes, report.curves)
        ),
        "Dots: unseen cases.": lambda axes: draw_case_dice(axes, report),
    }
    figures = "".join(
        f"<figure>{render_axes(CHART_SIZE_IN, draw)}<figcaption>{caption}</figcaption></figure>"
        for caption, draw in charts.items()
    )
    return f'<div class="figures">{figures}</div>'


def build_stage_table(report: QuickstartReport) -> str:
    rows = [(stage.name, format_minutes(stage.seconds)) for stage in report.stages]
    rows.append(("in all", format_minutes(sum(stage.seconds for stage in report.stages))))
    return build_table(("stage", "minutes"), rows)


def build_commands(report: QuickstartReport) -> str:
    lines = [f"export {quote_variable(variable)}" for variable in report.variables]
    lines += [command for stage in report.stages for command in stage.commands]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def quote_variable(variable: str) -> str:
    """Return NAME=value as a shell takes it."""
    name, _, value = variable.partition("=")
    return f"{name}={shlex.quote(value)}"


def format_mean_sd(mean: float, sd: float, digits: int) -> str:
    """Return mean ± SD, or the mean alone for a single case, which has no SD."""
    return format_number(mean, digits) if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def format_minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _n_digits(metric: str) -> int:
    return 3 if metric == "dice" else 2
