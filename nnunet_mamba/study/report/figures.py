"""Figures of matplotlib as parts of a page (SVG in its text colour, PNG as data URI), and style of axes."""

import base64
import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#010203"  # drawn in the charts, and replaced by the colour of the page's text
STYLE: dict[Any, Any] = {  # beside matplotlib's defaults; nnU-Net's curves leave seaborn's in the process
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,  # a dollar in a label's name starts no formula
    "axes.titlesize": 10.0,
}
SVG_STYLE: dict[Any, Any] = {
    **STYLE,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def render_axes(size_in: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """Return one pair of axes, (width, height) in inches and filled by `draw`, as an SVG element."""
    with matplotlib.style.context(["default", SVG_STYLE]):
        figure = Figure(figsize=size_in, layout="constrained")
        draw(figure.add_subplot())
        return render_svg(figure)


def render_svg(figure: Figure) -> str:
    """Return the figure as an SVG element in the page's text colour, without unused identifiers."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))
    return re.sub(r' id="([\w-]+)"', lambda found: found[0] if found[1] in used else "", svg)


def render_png(figure: Figure, dpi: int) -> bytes:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    return stream.getvalue()


def encode_png(png: bytes) -> str:
    """Return the picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def style_axes(axes: Axes) -> None:
    """Remove the upper and right border, add a light grid and set the title in bold."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.title.set_fontweight("bold")


def get_axis_limits(groups: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return limits that a few missed labels do not stretch."""
    finite = [values[np.isfinite(values)] for values in groups]
    kept = np.concatenate(
        [np.percentile(values, (3, 97)) for values in finite if values.size] or [[0.0, 1.0]]
    )
    low, high = float(kept.min()), float(kept.max())
    margin = 0.35 * (high - low) or 0.05 * abs(high) or 1.0
    everything = np.concatenate([kept, *finite])
    pad = 0.04 * (high - low + 2 * margin)
    return max(low - margin, float(everything.min()) - pad), min(high + margin, float(everything.max()) + pad)


def wrap_name(text: str, width: int = 17) -> str:
    """Wrap a long name after spaces and underscores."""
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for part in re.findall(r"[^_ ]+[_ ]*|[_ ]+", line):
            if lines[-1] and len((lines[-1] + part).rstrip("_ ")) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip(" ") for line in lines)
