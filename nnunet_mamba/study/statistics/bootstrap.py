"""BCa bootstrap of the mean difference of two methods on the same cases: patients are drawn, and trainings.

A patient brings all of its cases. Where folds were trained with several seeds, their trainings are drawn too,
those of each method by themselves. B resamples, P patients, N cases, F folds, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

DECIMALS = 12  # 0.9 - 0.8 and 0.8 - 0.7 are a tie, which binary fractions would hide
LEVEL = 0.95
CHUNK = 1000  # resamples drawn at once: the memory of drawing stays below that of the result


@dataclass(frozen=True)
class Trainings:
    """Values of a method by its trainings.

    values  (S, N): of each case by each training of its fold
    folds   (N,): the fold of each case
    stream  number of random draws; methods of one number are the same trained networks
    """

    values: np.ndarray
    folds: Sequence[str]
    stream: int = 0


@dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates of a mean, by which its intervals and one-sided tests are made [1, ch. 14].

    values     (B,)
    jackknife  (P,): the mean without one patient each, for the acceleration

    [1] Efron and Tibshirani, An introduction to the bootstrap (1993).
    """

    values: np.ndarray
    estimate: float
    jackknife: np.ndarray

    @cached_property
    def bias(self) -> float:
        """Return z0: how far the median of the replicates is from the estimate [1, eq. 14.14]."""
        return float(ndtri(self._share_below(self.estimate)))

    @cached_property
    def acceleration(self) -> float:
        """Return a: how much the standard error changes with the mean [1, eq. 14.15]."""
        d = self.jackknife.mean() - self.jackknife
        return float((d**3).sum() / (6 * (d**2).sum() ** 1.5)) if d.any() else 0.0

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the BCa interval [1, eq. 14.9 and 14.10]; NaN without replicates."""
        if not self.values.size:
            return float("nan"), float("nan")
        z = self.bias + ndtri([(1 - level) / 2, (1 + level) / 2])
        low, high = np.quantile(self.values, ndtr(self.bias + z / (1 - self.acceleration * z)))
        return float(low), float(high)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of a mean below the bound: 0.05 where the 90 % interval ends at it."""
        return float(ndtr(-self._level_of(bound)))

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of a mean above the bound."""
        return float(ndtr(self._level_of(bound)))

    def _level_of(self, bound: float) -> float:
        """Return the normal quantile of the level whose BCa endpoint is the bound; inverse of `interval`."""
        if not self.values.size:
            return float("nan")
        u = ndtri(self._share_below(bound)) - self.bias
        scale = max(1 + self.acceleration * u, 1e-3)
        return float(u / scale - self.bias)

    def _share_below(self, bound: float) -> float:
        """Return the share of replicates below the bound, those at it half; neither 0 nor 1."""
        beyond = np.round(self.values - bound, DECIMALS)
        share = ((beyond < 0).mean() + (beyond <= 0).mean()) / 2
        return float(np.clip(share, 0.5 / len(beyond), 1 - 0.5 / len(beyond)))


def bootstrap_difference(
    method: Trainings, other: Trainings, patients: np.ndarray, *, n_bootstrap: int, seed: int
) -> Replicates:
    """Return replicates of the mean over cases of method - other; none below 2 patients.

    Shape: patients (N,): the patient of each case
    """
    differences = method.values.mean(0) - other.values.mean(0)
    estimate = float(differences.mean()) if differences.size else float("nan")
    sums, sizes = sum_by_patient(differences, patients)
    if len(sums) < 2:
        return Replicates(np.array([]), estimate, np.array([]))
    without_one = (sums.sum() - sums) / (sizes.sum() - sizes)
    means = [_resample_means(each, patients, n_bootstrap, seed) for each in (method, other)]
    return Replicates(means[0] - means[1], estimate, without_one)


def _resample_means(trained: Trainings, patients: np.ndarray, n_bootstrap: int, seed: int) -> np.ndarray:
    """Return the mean over cases in each resample. Shape: (B,)"""
    _, fold = np.unique(np.asarray(trained.folds), return_inverse=True)
    _, patient = np.unique(patients, return_inverse=True)
    n_seeds, n_folds, n_patients = len(trained.values), fold.max() + 1, patient.max() + 1
    counts = resample_counts(n_patients, n_bootstrap, seed)
    sizes = counts @ np.bincount(patient).astype(float)
    if n_seeds == 1:
        return np.asarray(counts @ np.bincount(patient, trained.values[0]) / sizes)
    sums = np.zeros((n_patients, n_folds, n_seeds))
    np.add.at(sums, (patient, fold), trained.values.T)
    weights = resample_trainings(n_folds, n_seeds, n_bootstrap, (seed, trained.stream))
    by_training = (counts @ sums.reshape(n_patients, -1)).reshape(weights.shape)
    return np.asarray((by_training * weights).sum((1, 2)) / sizes)


@lru_cache(maxsize=4)  # labels and methods mostly have the same number of patients
def resample_counts(n_patients: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Return how often each patient is drawn, with replacement. Shape: (B, P), read-only."""
    rng = np.random.default_rng(seed)
    counts = np.empty((n_bootstrap, n_patients))
    for start in range(0, n_bootstrap, CHUNK):
        part = counts[start : start + CHUNK]
        drawn = rng.integers(0, n_patients, part.shape) + n_patients * np.arange(len(part))[:, None]
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    counts.flags.writeable = False
    return counts


def resample_trainings(n_folds: int, n_seeds: int, n_bootstrap: int, key: tuple[int, int]) -> np.ndarray:
    """Return the share of each training among those drawn of its fold. Shape: (B, F, S)

    S - 1 of S are drawn, with replacement, so that their mean varies as that of S trainings does; means of S
    drawn from S vary less, by a factor of S / (S - 1), which is 2 for two seeds.
    """
    rng = np.random.default_rng([*key, 1])  # not the patients' numbers
    drawn = rng.multinomial(n_seeds - 1, np.full(n_seeds, 1 / n_seeds), size=(n_bootstrap, n_folds))
    return np.asarray(drawn / (n_seeds - 1))


def sum_by_patient(values: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of each patient's values, patients in sorted order."""
    _, index = np.unique(patients, return_inverse=True)
    return np.bincount(index, values), np.bincount(index).astype(float)
