"""The page: one HTML file that needs nothing but a browser; light or dark as the reader's system has it."""

import html
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.study.evaluation import Label, Score, mean_foreground, summarise
from nnunet_mamba.study.report.figures import (
    CHART_STYLE,
    frame,
    key_numbers,
    minutes,
    number,
    png_uri,
    section,
    spread,
    svg_of,
    table,
)
from nnunet_mamba.study.report.quickstart_charts import draw_case_dice, draw_dice, draw_losses
from nnunet_mamba.study.report.quickstart_content import (
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    CaseFiles,
    Report,
    case_dice,
    shown_cases,
)
from nnunet_mamba.study.report.slices import Slice, cut, draw, read_volume

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
    write_text(file, frame(report.title, "".join(parts)))


def header(report: Report) -> str:
    """Title and the numbers that matter most."""
    key = [
        ("mean foreground Dice", f"{mean_foreground(report.scores):.3f}"),
        ("unseen cases", str(len(report.cases))),
        ("minutes in all", minutes(sum(stage.seconds for stage in report.stages))),
        *report.facts[:3],
    ]
    return f"<h1>{html.escape(report.title)}</h1>\n{key_numbers(key)}"


def score_table(scores: Sequence[Score]) -> str:
    """One row per label: Dice and HD95, mean ± SD over the cases where they are defined."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    counts: dict[tuple[str, str], tuple[str, str]] = {}
    for row in summarise(scores):
        key = (row.label_name, row.label)
        rows.setdefault(key, {})[row.metric] = spread(row.mean, row.sd, 3 if row.metric == "dice" else 2)
        counts[key] = (str(row.n_cases), str(row.n_excluded))
    body = [
        (name, cell["dice"], cell["hd95"], *counts[name, label], label)
        for (name, label), cell in rows.items()
    ]
    body.append(
        (
            "mean of labels",
            f"{mean_foreground(scores):.3f}",
            f"{mean_foreground(scores, 'hd95'):.2f}",
            "",
            "",
            "",
        )
    )
    heads = ("label", "Dice", "HD95 (mm)", "cases", "not counted", "value")
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
        f'src="{slice_png(shown, report.labels, tallest_mm)}">{shown.plane}</div>'
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


def slice_png(shown: Slice, labels: tuple[Label, ...], tallest_mm: float) -> str:
    """A data URI; `tallest_mm` is drawn `SLICE_HEIGHT_IN` high."""
    height, width = (size * mm for size, mm in zip(shown.image.shape, shown.pixel_mm, strict=True))
    scale = SLICE_HEIGHT_IN / tallest_mm
    figure = Figure(figsize=(width * scale, height * scale), facecolor="black")
    draw(figure.add_axes((0, 0, 1, 1)), shown, labels, linewidth=1.1)
    return png_uri(figure, dpi=110)


def charts(report: Report) -> str:
    """Inline SVG in the page's own text colour, side by side where there is room."""
    drawn: dict[str, Callable[[Axes], None]] = {
        "nnU-Net's loss, the mean over an epoch.": lambda axes: draw_losses(axes, report.curves),
        "Dots: Dice of patches of the validation cases, in an epoch. Line: nnU-Net's moving average, nine "
        "parts of what it was and one part of the new epoch, by which it chooses checkpoint_best.pth.": (
            lambda axes: draw_dice(axes, report.curves)
        ),
        "Dots: unseen cases.": lambda axes: draw_case_dice(axes, report),
    }
    figures = []
    for caption, draw_on in drawn.items():
        with matplotlib.rc_context(CHART_STYLE):
            figure = Figure(figsize=(3.6, 3.0), layout="constrained")
            draw_on(figure.subplots())
            figures.append(f"<figure>{svg_of(figure)}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="figures">{"".join(figures)}</div>'


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
