#!/usr/bin/env python
"""What a linear state space model makes of a picture read row by row: MM-UNet's fig. 2a [1].

    scripts/s4_fit.py --out s4_fit.png                    a photograph that scikit-image brings along
    scripts/s4_fit.py --image slice.png --out s4_fit.png

A picture of 128 x 128, shrunk, is flattened width-first into u_0 ... u_{L-1}, and a diagonal S4 [2]
predicts each pixel from those before it:

    h_t = exp(delta a) h_{t-1} + u_t,    y_t = Re(C h_{t-1}),    a_n = -1/2 + i pi n (S4D-Lin)

with several step sizes delta at once, so that short and long memories are there. With these fixed, C is a
linear least-squares problem, solved exactly: what is left is what such a model cannot do, not what a training
did not reach. The same is done for the sequence from its far end, and for both together.

What differs from the paper, which gives neither code nor sizes: it does not say how it fits, nor to which
target. A model that may see u_t itself has the identity for an answer, so here it sees only what came before.
The paper finds large errors at values far from the mean and at the ends of rows, where the scan jumps to the
other side of the picture, and that the reverse scan repairs the latter. Here the jump shows as an error at
the beginning of each row, which the reverse scan has on the other side; with both, either side lies between
the two. Values far from the mean are fitted no worse than others in the default picture.

[1] Xie et al., MM-UNet, arXiv:2503.17540.
[2] Gu et al., On the parameterization and initialization of diagonal state space models, arXiv:2206.11893.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.signal import lfilter

SIZE = 128
STEPS = (1.0, 0.25, 0.0625, 0.015625)  # delta
N_MODES = 16  # per delta
RIDGE = 1e-6  # of the largest eigenvalue: neighbouring modes are all but the same


def main() -> None:
    parser = argparse.ArgumentParser(description="A linear state space model on a picture read row by row.")
    parser.add_argument("--image", type=Path, help="a picture (default: scikit-image's cameraman)")
    parser.add_argument("--out", type=Path, default=Path("s4_fit.png"), help="default: ./s4_fit.png")
    args = parser.parse_args()
    picture = read_picture(args.image)
    fits = fit_all(picture)
    for name, fitted in fits.items():
        print(f"{name:9s} {summary(picture, fitted)}")
    draw(args.out, picture, fits)
    print(f"-> {args.out}")


def read_picture(file: Path | None) -> np.ndarray:
    """(SIZE, SIZE), mean 0, standard deviation 1."""
    from skimage import color, data, io, transform

    picture = data.camera() if file is None else io.imread(file)
    grey = color.rgb2gray(picture[..., :3]) if picture.ndim == 3 else picture.astype(float)
    grey = transform.resize(grey, (SIZE, SIZE), anti_aliasing=True)
    return (grey - grey.mean()) / grey.std()


def fit_all(picture: np.ndarray) -> dict[str, np.ndarray]:
    """What the scan, its reverse, and both together predict, folded back onto the picture."""
    u = picture.flatten()
    there, back = states_before(u), states_before(u[::-1])[::-1]
    features = {"forward": there, "reverse": back, "both": np.concatenate((there, back), axis=1)}
    return {name: least_squares(x, u).reshape(picture.shape) for name, x in features.items()}


def states_before(u: np.ndarray) -> np.ndarray:
    """(L, 2 modes): real and imaginary parts of the states before each step sees its own input."""
    columns = []
    for delta in STEPS:
        for n in range(N_MODES):
            decay = np.exp(delta * (-0.5 + 1j * np.pi * n))
            state = lfilter([0.0, 1.0], [1.0, -decay], u.astype(complex))
            columns += [state.real, state.imag]
    states = np.stack(columns, axis=1)
    return states / np.maximum(states.std(axis=0), 1e-12)


def least_squares(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The best linear prediction of u from x, and a constant."""
    x = np.concatenate((x, np.ones((len(x), 1))), axis=1)
    gram = x.T @ x
    ridge = RIDGE * np.linalg.eigvalsh(gram)[-1]
    return x @ np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ u)


def summary(picture: np.ndarray, fitted: np.ndarray) -> str:
    """Root mean squares of the error: everywhere, in the first and last columns, far from the mean."""
    error = picture - fitted
    far = np.abs(picture) > np.quantile(np.abs(picture), 0.9)
    parts = {
        "everywhere": error,
        "first two columns": error[:, :2],
        "last two columns": error[:, -2:],
        "tenth farthest from the mean": error[far],
    }
    return ", ".join(f"{name} {np.sqrt(np.mean(part**2)):.3f}" for name, part in parts.items())


def draw(file: Path, picture: np.ndarray, fits: dict[str, np.ndarray]) -> None:
    """Above: the picture and the errors; below: the error by column, and by value."""
    figure = Figure(figsize=(11, 5.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2.2))
    axes = upper.subplots(1, 1 + len(fits))
    axes[0].imshow(picture, cmap="gray")
    axes[0].set(title="picture, read row by row", xticks=[], yticks=[])
    top = np.quantile(np.abs(picture - fits["forward"]), 0.995)
    for ax, (name, fitted) in zip(axes[1:], fits.items(), strict=True):
        shown = ax.imshow(np.abs(picture - fitted), cmap="inferno", vmin=0, vmax=top)
        ax.set(title=f"|error|, {name}", xticks=[], yticks=[])
    upper.colorbar(shown, ax=axes[-1], shrink=0.8)
    by_column, by_value = lower.subplots(1, 2)
    edges = np.quantile(picture, np.linspace(0, 1, 21))
    middle = (edges[1:] + edges[:-1]) / 2
    which = np.clip(np.searchsorted(edges, picture.flatten(), side="right") - 1, 0, len(middle) - 1)
    for name, fitted in fits.items():
        error = picture - fitted
        by_column.plot(np.sqrt(np.mean(error**2, axis=0)), label=name)
        squares = np.bincount(which, error.flatten() ** 2, len(middle))
        counts = np.maximum(np.bincount(which, minlength=len(middle)), 1)
        by_value.plot(middle, np.sqrt(squares / counts), label=name)
    by_column.set(xlabel="column", ylabel="error (RMS)", title="by column: rows begin at 0")
    by_value.set(xlabel="value (0 is the mean)", title="by value of the pixel")
    by_column.legend(frameon=False)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
