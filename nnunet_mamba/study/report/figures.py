"""What every page is made of: the frame, sections, tables, numbers, charts as SVG, files written whole."""

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_mamba.study.report.style import CSS

INK = "#010203"  # drawn in the charts, and replaced by the colour of the page's text
CHART_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,  # names of labels are not formulas, whatever dollars they hold
    "axes.titlesize": 10.0,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def frame(title: str, body: str) -> str:
    """A whole page, light or dark as the reader's system has it."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head>\n<body>\n{body}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{''.join(parts)}</section>\n"


def key_numbers(numbers: Iterable[tuple[str, str]]) -> str:
    """(name, number) pairs as boxes."""
    boxes = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>" for name, value in numbers
    )
    return f'<div class="key">{boxes}</div>\n'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are text and are escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def svg_of(figure: Figure) -> str:
    """The chart as an element of the page, in the page's own text colour; identifiers only where used."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))
    return re.sub(r' id="([\w-]+)"', lambda found: found[0] if found[1] in used else "", svg)


def png_uri(figure: Figure, dpi: int) -> str:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def spread(mean: float, sd: float, digits: int) -> str:
    """mean ± SD; a single case has no SD."""
    return number(mean, digits) if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
