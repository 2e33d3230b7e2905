"""Several trainings of one method that differ in their seed, as one: scores averaged case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan

from nnunet_mamba.study.evaluation import Score


def average_tables(tables: Sequence[Sequence[Score]]) -> list[Score]:
    """Return the mean over tables of each case, label and metric, in the order of the first table.

    A value that is not defined (NaN) in one table is not defined in the mean. Where a mask is empty in one
    table only, `empty` says so. ValueError if the tables hold different rows.
    """
    by_key = [{_key(score): score for score in table} for table in tables]
    for i, table in enumerate(by_key):
        if len(table) < len(tables[i]):
            raise ValueError(f"Table {i + 1} holds a case, label and metric twice; expected each once.")
        if differing := sorted(set(table) ^ set(by_key[0])):
            raise ValueError(
                f"Tables 1 and {i + 1} differ in their rows: {' '.join(differing[0])}; score all alike."
            )
    return [_mean([table[key] for table in by_key]) for key in by_key[0]]


def _key(score: Score) -> tuple[str, ...]:
    origin = (score.dataset, score.trainer, score.plans, score.configuration, score.fold)
    return (*origin, score.case, score.label, score.metric, score.protocol)


def _mean(scores: Sequence[Score]) -> Score:
    values = [score.value for score in scores]
    empty = next((score.empty for score in scores if score.empty), "")
    return replace(
        scores[0], value=float("nan") if any(map(isnan, values)) else sum(values) / len(values), empty=empty
    )
