"""Scores of a shared model's card: those of the exported weights, from a table that `evaluate` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from nnunet_mamba.io.tables import Table
from nnunet_mamba.sharing.export_model import get_dataset
from nnunet_mamba.study.evaluation import Score, compute_foreground_mean, read_table, summarise
from nnunet_mamba.study.evaluation.results import read_origin
from nnunet_mamba.study.statistics.formats import (
    DASH,
    format_folds,
    format_label,
    format_metric,
    format_spread,
    format_value,
)


def tabulate_scores(file: Path, folder: Path, folds: Sequence[str]) -> list[Table]:
    """Return the tables of a model's card: means per label, one table for each protocol and kind of cases.

    Args:
        file: table of scores.
        folder: of the trained model.
        folds: that are exported; scores of others are of other weights, and left out.

    ValueError if no row is of the model.
    """
    scores = read_table(file)
    origin = _find_origin(folder)
    own = [
        score
        for score in scores
        if all(getattr(score, column) in ("", value) for column, value in origin.items())
        and score.fold in ("", "test", *folds)
    ]
    if not own:
        there = sorted({f"{s.dataset} {s.method} fold {s.fold} {s.seed}".strip() for s in scores})
        raise ValueError(
            f"{file} has no scores of {' '.join(filter(None, origin.values()))}, fold {' '.join(folds)}; it "
            f"has {'; '.join(there[:5]) or 'none'}. Score this model: nnunet-mamba "
            f"evaluate --results {origin['dataset']} --out TABLE."
        )
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in own:
        kind = score.fold if score.fold in ("", "all", "test") else "validation"
        groups.setdefault((score.protocol, kind), []).append(score)
    return [_tabulate(protocol, kind, group) for (protocol, kind), group in groups.items()]


def _find_origin(folder: Path) -> dict[str, str]:
    """Return the columns of a table of scores that are of a trained folder."""
    origin = asdict(replace(read_origin(folder), dataset=get_dataset(folder)))
    del origin["fold"]
    return origin


def _tabulate(protocol: str, kind: str, scores: Sequence[Score]) -> Table:
    """Return labels by metrics: mean ± SD over cases, and their number."""
    cases = {
        "validation": f"cross-validation, fold {format_folds(score.fold for score in scores)}",
        "all": "fold all, on the cases that it was trained on",
        "test": "test cases",
        "": "cases whose fold the table does not tell",
    }[kind]
    summaries = {((row.label, row.label_name), row.metric): row for row in summarise(scores)}
    labels = list(dict.fromkeys(label for label, _ in summaries))
    metrics = list(dict.fromkeys(metric for _, metric in summaries))

    def cell(label: tuple[str, str], metric: str) -> str:
        row = summaries.get((label, metric))
        return f"{format_spread(row.mean, row.sd, metric)} ({row.n_cases})" if row else DASH

    rows = [[format_label(label), *(cell(label, metric) for metric in metrics)] for label in labels]
    means = [format_value(compute_foreground_mean(scores, metric), metric) for metric in metrics]
    n_cases = len({score.case for score in scores})
    unnamed = [] if all(score.trainer for score in scores) else ["The table does not name the model scored."]
    return Table(
        header=["label", *(format_metric(metric, protocol) for metric in metrics)],
        rows=[*rows, ["mean of the labels", *means]],
        title=f"Protocol {protocol or 'not recorded'}; {cases}; {n_cases} case{'s' * (n_cases != 1)}.",
        notes=["Mean ± SD over cases, in brackets the cases where the metric is defined.", *unnamed],
    )
