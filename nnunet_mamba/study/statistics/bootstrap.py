"""Resampling patients: intervals of a mean whose cases come in clusters.

B resamples of n patients; a patient brings all of its cases.
"""

from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

LEVEL = 0.95
CHUNK = 1000  # resamples drawn at once: the memory of drawing stays below that of the result


@lru_cache(maxsize=4)  # labels and methods mostly have the same number of patients
def resample_counts(n_patients: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """How often each patient is drawn, with replacement. Shape: (B, n), not to be written to."""
    rng = np.random.default_rng(seed)
    counts = np.empty((n_bootstrap, n_patients))
    for start in range(0, n_bootstrap, CHUNK):
        part = counts[start : start + CHUNK]
        drawn = rng.integers(0, n_patients, part.shape) + n_patients * np.arange(len(part))[:, None]
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    counts.flags.writeable = False
    return counts


def by_patient(values: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of each patient's values, patients in sorted order."""
    _, index = np.unique(patients, return_inverse=True)
    return np.bincount(index, values), np.bincount(index).astype(float)


def mean_interval(
    values: np.ndarray, patients: np.ndarray, *, n_bootstrap: int, seed: int, level: float = LEVEL
) -> tuple[float, float]:
    """BCa interval of the mean over cases when patients are resampled; NaN for fewer than 2 patients.

    values, patients  (N,): a number per case, and whose case it is
    """
    sums, sizes = by_patient(values, patients)
    if len(sums) < 2:
        return float("nan"), float("nan")
    counts = resample_counts(len(sums), n_bootstrap, seed)
    replicates = (counts @ sums) / (counts @ sizes)
    without_one = (sums.sum() - sums) / (sizes.sum() - sizes)  # jackknife over patients
    return bca(replicates, float(values.mean()), without_one, level)


def bca(
    replicates: np.ndarray, estimate: float, jackknife: np.ndarray, level: float = LEVEL
) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles [1, eq. 14.9 to 14.15].

    [1] Efron and Tibshirani, An introduction to the bootstrap (1993), ch. 14.
    """
    beyond = np.round(replicates - estimate, 12)
    share_below = ((beyond < 0).mean() + (beyond <= 0).mean()) / 2
    z0 = ndtri(np.clip(share_below, 0.5 / len(replicates), 1 - 0.5 / len(replicates)))
    d = jackknife.mean() - jackknife
    acceleration = (d**3).sum() / (6 * (d**2).sum() ** 1.5) if d.any() else 0.0
    z = z0 + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(replicates, ndtr(z0 + z / (1 - acceleration * z)))
    return float(low), float(high)
