"""The page: one HTML file that needs nothing but a browser; light or dark as the reader's system has it."""

import base64
import html
import io
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_mamba.evaluation import Score, mean_foreground, summarise
from nnunet_mamba.report.charts import draw_case_dice, draw_dice, draw_losses
from nnunet_mamba.report.content import (
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    CaseFiles,
    Report,
    case_dice,
    shown_cases,
)
from nnunet_mamba.report.slices import Slice, cut, draw, read_volume
from nnunet_mamba.report.style import CSS

INK = "#010203"  # drawn in the charts, and replaced by the colour of the page's text
SLICE_HEIGHT_IN = 2.6


def write_page(report: Report, file: Path) -> None:
    """Write the page at once, or not at all."""
    parts = (
        header(report),
        section("Scores of unseen cases", score_table(report.scores), case_details(report.scores)),
        section(
            "Unseen cases", legend(), *(case_figure(report, word, case) for word, case in shown_cases(report))
        ),
        section("Training", charts(report)),
        section("Time", stage_table(report)),
        section("Commands", "<p>In a shell, this gives the same:</p>", commands(report)),
        section("Made with", table(("", ""), [*report.facts, *report.versions])),
    )
    title = html.escape(report.title)
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head>\n<body>\n{''.join(parts)}</body></html>\n"
    )
    draft = Path(file).with_name(f".{Path(file).name}.partial")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def header(report: Report) -> str:
    """Title and the numbers that matter most."""
    key = [
        ("mean foreground Dice", f"{mean_foreground(report.scores):.3f}"),
        ("unseen cases", str(len(report.cases))),
        ("minutes in all", minutes(sum(stage.seconds for stage in report.stages))),
        *report.facts[:3],
    ]
    boxes = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>" for name, value in key
    )
    return f'<h1>{html.escape(report.title)}</h1>\n<div class="key">{boxes}</div>\n'


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{''.join(parts)}</section>\n"


def score_table(scores: Sequence[Score]) -> str:
    """One row per label: Dice and HD95, mean ± SD over the cases where they are defined."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    counts: dict[tuple[str, str], tuple[str, str]] = {}
    for row in summarise(scores):
        key = (row.label_name, row.label)
        rows.setdefault(key, {})[row.metric] = spread(row.mean, row.sd, 3 if row.metric == "dice" else 2)
        counts[key] = (str(row.n_cases), str(row.n_excluded))
    body = [
        (name, label, cell["dice"], cell["hd95"], *counts[name, label])
        for (name, label), cell in rows.items()
    ]
    body.append(
        (
            "mean of labels",
            "",
            f"{mean_foreground(scores):.3f}",
            f"{mean_foreground(scores, 'hd95'):.2f}",
            "",
            "",
        )
    )
    heads = ("label", "value", "Dice", "HD95 (mm)", "cases", "not counted")
    note = (
        "<p>Mean ± standard deviation over cases. A label that neither reference nor prediction has is not "
        "counted; one that only one of them has scores Dice 0 and the image's diagonal.</p>"
    )
    return table(heads, body) + note


def case_details(scores: Sequence[Score]) -> str:
    """Every number, folded away."""
    body = [
        (s.case, s.label_name, s.metric, number(s.value, 3 if s.metric == "dice" else 2), str(s.n_voxels))
        for s in scores
    ]
    heads = ("case", "label", "metric", "value", "voxels")
    return f"<details><summary>every case</summary>{table(heads, body)}</details>"


def legend() -> str:
    swatch = '<i class="swatch" style="background:{}"></i>{}'
    names = ((REFERENCE_COLOUR, "reference"), (PREDICTION_COLOUR, "prediction"))
    return "<p>Outlines:" + "".join(swatch.format(*pair) for pair in names) + "</p>"


def case_figure(report: Report, word: str, case: CaseFiles) -> str:
    """The slices of one case, on black, to one scale."""
    slices = cut(read_volume(case), report.labels)
    tallest_mm = max(shown.image.shape[0] * shown.pixel_mm[0] for shown in slices)
    panels = "".join(
        f'<div><img alt="{shown.plane} slice of {html.escape(case.name)}" '
        f'src="{slice_png(shown, report, tallest_mm)}">{shown.plane}</div>'
        for shown in slices
    )
    per_label = ", ".join(
        f"{html.escape(score.label_name)} {number(score.value, 3)}"
        for score in report.scores
        if score.case == case.name and score.metric == "dice"
    )
    mean = f"{case_dice(report.scores, case.name):.3f}"
    caption = f"<b>{word}</b>: {html.escape(case.name)}, Dice {mean} ({per_label})"
    return f'<figure><div class="planes">{panels}</div><figcaption>{caption}</figcaption></figure>'


def slice_png(shown: Slice, report: Report, tallest_mm: float) -> str:
    """A data URI; `tallest_mm` is drawn `SLICE_HEIGHT_IN` high."""
    height, width = (size * mm for size, mm in zip(shown.image.shape, shown.pixel_mm, strict=True))
    scale = SLICE_HEIGHT_IN / tallest_mm
    figure = Figure(figsize=(width * scale, height * scale), facecolor="black")
    FigureCanvasAgg(figure)
    draw(figure.add_axes((0, 0, 1, 1)), shown, report.labels, linewidth=1.1)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def charts(report: Report) -> str:
    """Inline SVG in the page's own text colour."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
        ),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        losses, dice, cases = figure.subplots(1, 3)
        draw_losses(losses, report.curves)
        draw_dice(dice, report.curves)
        draw_case_dice(cases, report)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    return '<figure class="scroll">' + svg[svg.index("<svg") :].replace(INK, "currentColor") + "</figure>"


def stage_table(report: Report) -> str:
    rows = [(stage.name, minutes(stage.seconds)) for stage in report.stages]
    rows.append(("in all", minutes(sum(stage.seconds for stage in report.stages))))
    return table(("stage", "minutes"), rows)


def commands(report: Report) -> str:
    lines = [f"export {quoted(variable)}" for variable in report.variables]
    lines += [command for stage in report.stages for command in stage.commands]
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def quoted(variable: str) -> str:
    """NAME=value for a shell."""
    name, _, value = variable.partition("=")
    return f"{name}={shlex.quote(value)}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are text and are escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def spread(mean: float, sd: float, digits: int) -> str:
    """mean ± SD; a single case has no SD."""
    return number(mean, digits) if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
