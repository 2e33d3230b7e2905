"""Rankings by two rules, and their stability when patients are resampled [1].

M methods, N cases, B resamples. Rank 1 is the best; equal methods share the better rank.

[1] Wiesenfarth et al., Methods and open-source toolkit for analyzing and visualizing challenge results,
    arXiv:1910.05121 (challengeR).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_mamba.study.statistics.bootstrap import DECIMALS, resample_counts, sum_by_patient


@dataclass(frozen=True)
class Place:
    """Place of one method in a ranking. `rank_shares[i]` is the share of resamples that rank it i + 1."""

    method: str
    value: float  # the mean value, or the mean rank over cases
    rank: int
    rank_shares: tuple[float, ...]
    rank_low: int  # 95 % of the resamples
    rank_high: int


@dataclass(frozen=True)
class Ranking:
    """Ranking, best first. `tau`: Kendall's tau-b with the rankings of the resamples, mean and 95 %."""

    rule: str
    places: tuple[Place, ...]
    tau: float
    tau_low: float
    tau_high: float


def rank_methods(
    values: np.ndarray,
    names: Sequence[str],
    patients: np.ndarray,
    *,
    higher: bool,
    n_bootstrap: int,
    seed: int,
) -> tuple[Ranking, Ranking]:
    """Return two rankings: by the mean over cases, and by the mean over cases of the ranks per case.

    Shape: values (M, N), complete. `higher` is better, else lower.
    """
    from scipy.stats import rankdata  # half a second, which tables of results need not wait for

    losses = np.round(-values if higher else values, DECIMALS)
    case_ranks = rankdata(losses, axis=0)  # ties share the mean of their ranks
    rules = (("aggregate then rank", losses, values), ("rank then aggregate", case_ranks, case_ranks))
    return tuple(  # type: ignore[return-value]
        _ranking(rule, loss, values_of_rule.mean(1), names, _resampled(loss, patients, n_bootstrap, seed))
        for rule, loss, values_of_rule in rules
    )


def _resampled(losses: np.ndarray, patients: np.ndarray, n_bootstrap: int, seed: int) -> np.ndarray:
    """Return the mean loss of each method in each resample of patients. Shape: (M, N) -> (B, M)"""
    parts = [sum_by_patient(loss, patients) for loss in losses]
    sums, sizes = np.stack([part[0] for part in parts], axis=1), parts[0][1]
    counts = resample_counts(len(sizes), n_bootstrap, seed)
    return np.asarray((counts @ sums) / (counts @ sizes)[:, None])


def _ranking(
    rule: str, losses: np.ndarray, values: np.ndarray, names: Sequence[str], resampled: np.ndarray
) -> Ranking:
    ranks = _ranks(losses.mean(1)[None])[0]
    drawn = _ranks(resampled)  # (B, M)
    shares = [(drawn == rank).mean(0) for rank in range(1, len(names) + 1)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0, method="nearest")
    places = [
        Place(
            names[m],
            float(values[m]),
            int(ranks[m]),
            tuple(float(s[m]) for s in shares),
            int(low[m]),
            int(high[m]),
        )
        for m in range(len(names))
    ]
    taus = kendall_tau(ranks, drawn)
    tau_low, tau_high = np.nanpercentile(taus, [2.5, 97.5]) if not np.isnan(taus).all() else (np.nan, np.nan)
    mean = float(np.nanmean(taus)) if not np.isnan(taus).all() else float("nan")
    ordered = sorted(places, key=lambda place: (place.rank, place.method))
    return Ranking(rule, tuple(ordered), mean, float(tau_low), float(tau_high))


def _ranks(losses: np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal losses share the smaller rank. Shape: (B, M) -> (B, M)"""
    from scipy.stats import rankdata

    return np.asarray(rankdata(np.round(losses, DECIMALS), method="min", axis=1))


def kendall_tau(ranks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return tau-b of one ranking (M,) with each of `others` (B, M); NaN if either has ties only."""
    first, second = np.triu_indices(len(ranks), k=1)
    s = np.sign(ranks[first] - ranks[second])  # (pairs,)
    t = np.sign(others[:, first] - others[:, second])  # (B, pairs)
    scale = np.sqrt((s**2).sum() * (t**2).sum(1))
    return np.divide(t @ s, scale, out=np.full(len(others), np.nan), where=scale > 0)
