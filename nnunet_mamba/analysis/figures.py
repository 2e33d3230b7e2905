"""Figures of the analyses, as PNG files. Volumes are shown in the plane of their first axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from nnunet_mamba.analysis.activations import BINS, REACH, FeatureSpread
from nnunet_mamba.analysis.attention import Attention, ReceptiveField, upsample_to_patch

STYLE: dict[Any, Any] = {"font.size": 8.0, "font.family": "sans-serif", "axes.titlesize": 8.5}
DPI = 150
DECADES = 3  # shown of a map, below its largest value
COLOURS = {"skip": "#9aa5b4", "convs": "#2b6cb0", "mixed": "#d69e2e", "mixer": "#c05621", "out": "#1c2430"}
MARK = "#00b3a4"


def draw_attention(
    file: Path, found: Sequence[Attention], patch: Tensor, place: Sequence[int], title: str
) -> None:
    """Draw a row per block: the image, a map per direction, their sum; logarithmic, each on its own scale.
    Values smaller by more than `DECADES`, zero included, are black."""
    image = select_plane(patch, place)
    columns = max(len(one.maps) for one in found) + 2
    with matplotlib.style.context(["default", STYLE]):
        width = min(max(1.9 * image.shape[1] / image.shape[0], 1.3), 3.0)
        figure = new_figure(width * columns + 0.4, 2.25 * len(found) + 0.6)
        figure.suptitle(title, fontsize=10, parse_math=False)
        grid = figure.subplots(len(found), columns, squeeze=False)
        for row, one in zip(grid, found, strict=True):
            for ax in row:
                ax.set_axis_off()
            show_image(row[0], image, place)
            row[0].set_title(f"stage {one.stage}\n{shorten_name(one.name)}", fontsize=7)
            maps = [*one.maps.items(), ("sum of directions", one.total)]
            for ax, (direction, values) in zip(row[1:], maps, strict=False):
                show_map(ax, select_plane(upsample_to_patch(values, one.stride, patch.shape), place))
                mark_voxel(ax, place)
                ax.set_title(direction)
        figure.savefig(file, dpi=DPI)


def draw_feature_spreads(file: Path, found: Sequence[FeatureSpread], title: str) -> None:
    """Draw a histogram per block, and the variances of all blocks side by side."""
    blocks = list(dict.fromkeys(one.block for one in found))
    columns = min(4, len(blocks) + 1)
    rows = -(-(len(blocks) + 1) // columns)
    edges = np.linspace(-REACH, REACH, BINS + 1)
    with matplotlib.style.context(["default", STYLE]):
        figure = new_figure(3.0 * columns, 2.3 * rows + 0.5)
        figure.suptitle(title, fontsize=10, parse_math=False)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, block in zip(axes, blocks, strict=False):
            for one in (one for one in found if one.block == block):
                style = "-" if one.inside else "--"
                label = f"{one.part}, variance {one.variance:.3g}"
                ax.stairs(one.histogram.numpy(), edges, color=COLOURS[one.part], linestyle=style, label=label)
            ax.set(title=block, yscale="log", xlabel="feature value", ylim=(1e-5, 1))
            ax.legend(fontsize=6, frameon=False, loc="upper right")
        draw_variances(axes[len(blocks)], found, blocks)
        for ax in axes[len(blocks) + 1 :]:
            ax.set_axis_off()
        figure.savefig(file, dpi=DPI)


def draw_variances(ax: Any, found: Sequence[FeatureSpread], blocks: Sequence[str]) -> None:
    """Plot the variances of each part over the blocks."""
    for part, colour in COLOURS.items():
        points = [(blocks.index(one.block), one.variance) for one in found if one.part == part]
        if points:
            inside = next(one.inside for one in found if one.part == part)
            where = "inside" if inside else "outside"
            marker = {"marker": "o", "linestyle": "-" if inside else "--"}
            ax.plot(
                *zip(*points, strict=True), color=colour, label=f"{part} ({where})", markersize=3, **marker
            )
    ax.set(title="variance per block", yscale="log", xlabel="block, in order of computation")
    ax.set_xticks(range(len(blocks)))
    ax.legend(fontsize=6, frameon=False)


def draw_field(file: Path, field: ReceptiveField, patch: Tensor, title: str) -> None:
    """Draw the gradient in every plane through the voxel, and its mass within a distance."""
    values = field.gradient
    n_planes = 3 if values.ndim == 3 else 1
    with matplotlib.style.context(["default", STYLE]):
        figure = new_figure(2.4 * (n_planes + 1) + 3.0, 2.9)
        figure.suptitle(title, fontsize=10, parse_math=False)
        axes = figure.subplots(1, n_planes + 2, width_ratios=[1] * (n_planes + 1) + [1.3])
        for ax in axes[:-1]:
            ax.set_axis_off()
        show_image(axes[0], select_plane(patch, field.place), field.place)
        axes[0].set_title("input")
        for axis, ax in enumerate(axes[1:-1]):
            shown = np.take(values.numpy(), field.place[axis], axis) if n_planes == 3 else values.numpy()
            show_map(ax, shown)
            ax.set_title(f"|gradient|, plane of axis {axis}" if n_planes == 3 else "|gradient|")
        distance, mass = field.mass_within()
        axes[-1].plot(distance, mass, color="#2b6cb0")
        for fraction in (0.5, 0.95):
            radius = field.radius(fraction)
            axes[-1].axvline(radius, color="#9aa5b4", linewidth=0.8)
            axes[-1].annotate(f"{fraction:.0%}: {radius:.1f}", (radius, 0.03), rotation=90, fontsize=7)
        axes[-1].set(title="gradient within a distance", xlabel="voxels", ylim=(0, 1.02), xlim=(0, None))
        figure.savefig(file, dpi=DPI)


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of a size in inches, without pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def select_plane(volume: Tensor, place: Sequence[int]) -> np.ndarray:
    """Return the plane (y, x) of a volume at the voxel, or a picture as it is."""
    return (volume[place[0]] if volume.ndim == 3 else volume).numpy()


def show_image(ax: Any, image: np.ndarray, place: Sequence[int]) -> None:
    """Show an image with the voxel marked."""
    ax.imshow(image, cmap="gray", interpolation="nearest")
    mark_voxel(ax, place)


def mark_voxel(ax: Any, place: Sequence[int]) -> None:
    """Mark the voxel by a cross."""
    ax.plot(place[-1], place[-2], marker="+", color=MARK, markersize=9, markeredgewidth=1.4)


def show_map(ax: Any, values: np.ndarray) -> None:
    """Show `DECADES` below the largest value; smaller values are dark, as is a plane of zeros."""
    top = float(values.max())
    if top <= 0:
        ax.imshow(np.zeros_like(values), cmap="inferno", vmin=0, vmax=1)
        return
    norm = LogNorm(top * 10.0**-DECADES, top, clip=True)
    ax.imshow(np.maximum(values, top * 10.0**-DECADES), cmap="inferno", norm=norm, interpolation="nearest")


def shorten_name(name: str) -> str:
    """Return the end of a module's dotted name."""
    return name if len(name) <= 22 else "…" + name[-21:]
