"""Table and figures of the positive control, docs/longrange.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from records import replace_table

from nnunet_mamba.study.datasets.longrange import SHAPE, draw_longrange
from nnunet_mamba.study.report.figures import STYLE, render_png, style_axes

CHANCE, SOLVED = 0.5, 0.9  # Dice of the positive control
STEPS_PER_EPOCH = 25
LONGRANGE = {  # rows of its table and lines of the figure: title -> trainer, plans, format ("": no line)
    "nnU-Net, 3 stages": ("Control", "shallow", "k-o"),
    "ResEnc, 3 stages": ("Control", "shallow_resenc", "k--s"),
    "nnU-Net, 6 stages": ("Control", "deep", "k:^"),
    "MM-UNet": ("MMUNet", "shallow", "C0-o"),
    "MM-UNet, its mixers switched off": ("MMUNet@nomixer", "shallow", ""),
    "MM-UNet's twin without SSM": ("MMUNetNoSSM", "shallow", "C0:x"),
    "U-Mamba Bot": ("UMambaBot", "shallow", "C1-o"),
    "U-Mamba Bot, its mixer switched off": ("UMambaBot@nomixer", "shallow", ""),
    "U-Mamba Enc": ("UMambaEnc", "shallow", "C1--s"),
    "U-Mamba's twin without SSM": ("UMambaBotNoSSM", "shallow", "C1:x"),
    "U-Mamba Bot with attention": ("UMambaBot_Attention", "shallow", "C3-D"),
    "Mamba Uni": ("MambaUni", "shallow", "C2--v"),
    "Mamba Bi": ("MambaBi", "shallow", "C2-.s"),
    "Mamba Multi": ("MambaMulti", "shallow", "C2-o"),
    "Taming Mambas' twin without SSM": ("MambaMultiNoSSM", "shallow", "C2:x"),
}


def write_page(folder: Path, docs: Path) -> None:
    """Write the table and the figures of docs/longrange.md from the scores and curves in `folder`."""
    scores, curves = (pd.read_parquet(folder / f"{what}.parquet") for what in ("scores", "curves"))
    replace_table(docs / "longrange.md", "longrange", longrange_table(scores, curves))
    with matplotlib.rc_context(STYLE):
        lines, example = (
            Figure(figsize=size, layout="constrained", facecolor="white") for size in ((11, 4.2), (6, 3))
        )
        draw_curves(lines, curves)
        draw_example(example)
        for name, figure in (("longrange", lines), ("longrange_image", example)):
            (docs / f"{name}.png").write_bytes(render_png(figure, 130))


def select(table: pd.DataFrame, trainer: str, plans: str) -> pd.DataFrame:
    """Return the rows of one method of the positive control, with their distance."""
    network, at, condition = trainer.partition("@")
    name = f"nnUNetTrainer{network}_longrange{at}{condition}"
    rows = table[(table["trainer"] == name) & (table["plans"] == plans)]
    return rows.assign(distance=rows["dataset"].str.extract(r"Dataset9(\d\d)")[0].astype(int))


def mean_dice(scores: pd.DataFrame, trainer: str, plans: str) -> pd.Series:
    """Return the mean over cases and labels of Dice, by distance."""
    rows = select(scores[scores["metric"] == "dice"], trainer, plans)
    return rows.groupby("distance")["value"].mean()


def steps_to_solve(curves: pd.DataFrame, trainer: str, plans: str) -> dict[int, int]:
    """Return the steps after which Dice on validation patches stays above `SOLVED`, by distance; those that
    were not solved are missing."""
    found = {}
    for distance, curve in select(curves, trainer, plans).groupby("distance"):
        last_below = curve.loc[~(curve["dice"] > SOLVED), "epoch"].max()
        if last_below != curve["epoch"].max():
            found[distance] = STEPS_PER_EPOCH * (1 + (0 if np.isnan(last_below) else int(last_below)))
    return found


def longrange_table(scores: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Return the table of the positive control in Markdown: Dice, and in brackets the steps to solve it."""
    dice = {title: mean_dice(scores, *row[:2]) for title, row in LONGRANGE.items()}
    distances = sorted(select_distances(scores))
    heading = ["network", *(f"{distance} pixels" for distance in distances)]
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for title, (trainer, plans, _) in LONGRANGE.items():
        solved = {d: f" ({steps})" for d, steps in steps_to_solve(curves, trainer, plans).items()}
        cells = [f"{dice[title][d]:.2f}{solved.get(d, '')}" if d in dice[title] else "" for d in distances]
        if any(cells):
            lines.append(f"| {' | '.join([title, *cells])} |")
    return "\n".join(lines)


def draw_curves(figure: Figure, curves: pd.DataFrame) -> None:
    """Draw Dice by steps, axes for each distance and a line for each network."""
    distances = sorted(select_distances(curves))
    panels = figure.subplots(1, len(distances), sharey=True, squeeze=False)[0]
    for axes, distance in zip(panels, distances, strict=True):
        for title, (trainer, plans, style) in LONGRANGE.items():
            curve = select(curves, trainer, plans).query("distance == @distance")
            if len(curve) and style:
                axes.plot(curve["epoch"] * STEPS_PER_EPOCH, curve["dice"], style, markersize=3, label=title)
        axes.axhline(CHANCE, color="grey", linewidth=0.8)
        axes.annotate("guessing", (10, CHANCE), va="bottom", color="grey")
        axes.set(xlabel="steps", ylim=(0, 1.03), title=f"cues {distance} pixels away")
        style_axes(axes)
    panels[0].set_ylabel("Dice on validation patches")
    lines = {
        line.get_label(): line for axes in panels for line in axes.lines if line.get_label() in LONGRANGE
    }
    handles = [lines[title] for title in LONGRANGE if title in lines]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=3)


def select_distances(table: pd.DataFrame) -> set[int]:
    """Return the distances of the positive control's data sets."""
    return set(table["dataset"].str.extract(r"Dataset9(\d\d)")[0].astype(int))


def draw_example(figure: Figure) -> None:
    """Draw an image of the positive control and its labels, side by side."""
    drawn = draw_longrange(np.random.default_rng(1), SHAPE, 64)
    colours = ListedColormap(["#222222", "#ffb000", "#648fff"])
    shown = {"image": (drawn.image, "gray"), "labels: bright (orange), dark (blue)": (drawn.labels, colours)}
    for axes, (title, (array, colour)) in zip(figure.subplots(1, 2), shown.items(), strict=True):
        axes.imshow(array[0], cmap=colour, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
