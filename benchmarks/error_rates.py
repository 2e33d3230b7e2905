"""Error rates of the comparison's intervals and tests in simulated studies: the tables of docs/statistics.md.

    python benchmarks/error_rates.py [--simulations 1000]

Differences of two methods have SD 1 over patients and a mean of 0, or of the margin. Prints Markdown, within
a quarter of an hour on one core.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from nnunet_mamba.study.statistics.bootstrap import Replicates, Trainings, bootstrap_difference
from nnunet_mamba.study.statistics.significance import equivalence_p, signed_rank_p

N_BOOTSTRAP = 1000
Rng = np.random.Generator

DISTRIBUTIONS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails (t of 3 degrees)": lambda rng, n: rng.standard_t(3, n) / 3**0.5,
    "skewed (exponential)": lambda rng, n: rng.exponential(size=n) - 1,
    "losses of 8 SD in 5 % of patients": lambda rng, n: rng.normal(size=n) + 0.4 - 8 * (rng.random(n) < 0.05),
}


def bootstrap_mean(gains: np.ndarray) -> Replicates:
    folds = [""] * gains.size
    method, zero = (Trainings(values[None], folds) for values in (gains, np.zeros(gains.size)))
    return bootstrap_difference(method, zero, np.arange(gains.size), n_bootstrap=N_BOOTSTRAP, seed=0)


def rate_equivalence(n_simulations: int) -> Iterator[str]:
    """Yield rows of false claims of equivalence at the margin that is missed more often, in %."""
    numbers = (6, 10, 20, 40, 100)
    yield f"| differences; patients | {' | '.join(map(str, numbers))} |"
    yield "|---" * (len(numbers) + 1) + "|"
    for name, draw in DISTRIBUTIONS.items():
        rates = [rate_at_margins(draw, n, n_simulations) for n in numbers]
        for i, test in enumerate(("ranks alone", "bootstrap alone", "both, as here")):
            yield f"| {name}; {test} | {' | '.join(f'{each[i]:.1f}' for each in rates)} |"


def rate_at_margins(draw: Callable[[Rng, int], np.ndarray], n: int, n_simulations: int) -> np.ndarray:
    """Return the rates of false claims by ranks, by the bootstrap and by both, at the worse margin."""
    rng, margin = np.random.default_rng(0), 5.0
    claims = np.zeros((2, 3))
    for _ in range(n_simulations):
        gains = draw(rng, n)
        for side, sign in enumerate((1, -1)):
            moved = sign * gains + margin  # the true mean is the margin
            replicates = bootstrap_mean(moved)
            by_ranks = signed_rank_p(moved - margin, "less")
            both = equivalence_p(moved, replicates, margin)
            claims[side] += np.array([by_ranks, replicates.p_below(margin), both]) < 0.05
    return np.asarray(100 * claims.max(0) / n_simulations)


def rate_seeds(n_simulations: int) -> Iterator[str]:
    """Yield rows of the misses of 95 % intervals of two equal methods whose trainings vary, in %."""
    yield "| SD over seeds / SE over patients | seeds | 1 fold | 5 folds | 5 folds, of the means alone |"
    yield "|---|---|---|---|---|"
    for ratio in (0.5, 1.0, 3.0):
        for n_seeds in (2, 3, 5):
            one, _ = rate_intervals(50, 1, n_seeds, ratio, n_simulations)
            five, means = rate_intervals(50, 5, n_seeds, ratio, n_simulations)
            yield f"| {ratio:g} | {n_seeds} | {one:.1f} | {five:.1f} | {means:.1f} |"


def rate_intervals(
    n: int, n_folds: int, n_seeds: int, ratio: float, n_simulations: int
) -> tuple[float, float]:
    """Return the misses of intervals that draw trainings, and of those of means over seeds."""
    rng, folds, missed = np.random.default_rng(1), np.arange(n) % n_folds, np.zeros(2)
    noise = ratio * (n_folds / n) ** 0.5  # of one training: of the mean over the folds it is ratio / sqrt(n)
    for _ in range(n_simulations):
        shared = rng.normal(size=n)
        pair = []
        for stream in range(2):
            trained = rng.normal(0, noise, (n_seeds, n_folds))[:, folds]
            own = rng.normal(0, 0.5, trained.shape)
            pair.append(Trainings(trained + own + (stream == 0) * shared, folds, stream))
        means = [Trainings(each.values.mean(0)[None], folds) for each in pair]
        for i, (method, other) in enumerate((pair, means)):
            found = bootstrap_difference(method, other, np.arange(n), n_bootstrap=N_BOOTSTRAP, seed=0)
            low, high = found.interval()
            missed[i] += not low <= 0 <= high
    return tuple(100 * missed / n_simulations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1000)
    n_simulations = parser.parse_args().simulations
    for rows in (rate_equivalence(n_simulations), rate_seeds(n_simulations)):
        for row in rows:
            print(row, flush=True)
        print()


if __name__ == "__main__":
    main()
