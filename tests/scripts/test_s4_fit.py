"""The fit of a picture: its states by hand, and what the directions can and cannot."""

import runpy
from pathlib import Path

import numpy as np

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "s4_fit.py"), run_name="s4_fit")


def test_states_know_only_what_came_before():
    u = np.zeros(8)
    u[3] = 1
    states = SCRIPT["states_before"](u)
    assert not states[:4].any()
    real = states[4:, 0]  # delta = 1, a = -1/2: each step keeps exp(-1/2)
    np.testing.assert_allclose(real[1:] / real[:-1], np.exp(-0.5))


def test_rows_begin_badly_and_both_directions_together_do_better():
    """A ramp across each row: a jump where the next row begins, elsewhere a line that a state can follow."""
    ramp = np.tile(np.linspace(-1, 1, 128), (128, 1)) + np.random.default_rng(0).normal(0, 0.01, (128, 128))
    error = {name: np.abs(ramp - fitted).mean(axis=0) for name, fitted in SCRIPT["fit_all"](ramp).items()}
    assert error["forward"][0] > 3 * np.median(error["forward"])
    assert error["reverse"][-1] > 3 * np.median(error["reverse"])
    assert error["both"].mean() < min(error["forward"].mean(), error["reverse"].mean())
