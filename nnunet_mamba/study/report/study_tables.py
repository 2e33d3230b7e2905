"""Tables of a study, the same on the page and in the Markdown file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from nnunet_mamba.io.document import ShadedCell
from nnunet_mamba.io.tables import BestCell, Table
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation import METRICS, compute_foreground_mean, summarise
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.published import (
    PublishedTable,
    find_differences,
    find_published_label_value,
    find_published_value,
)
from nnunet_mamba.study.report.training_curves import TrainingRun
from nnunet_mamba.study.statistics import DatasetComparison
from nnunet_mamba.study.statistics.formats import (
    DASH,
    format_difference,
    format_folds,
    format_label,
    format_number,
    format_share,
    format_spread,
    format_value,
    get_metric_title,
)
from nnunet_mamba.study.statistics.methods import BASELINE, RELATIONS

COLUMN_TITLES = {relation.against: relation.column for relation in RELATIONS} | {BASELINE: "against {}"}


def build_summary_table(report: StudyReport) -> Table:
    """Return a row per method: the leading metric, its tests and papers' numbers, then the other metrics."""
    leading = report.leading
    papers = [
        (i, table)
        for i, table in enumerate(report.published, start=1)
        if (table.metric, table.dataset) == (leading.metric, report.setup.dataset)
    ]
    spreads = {result.metric: _format_spreads(result) for result in report.comparisons}
    rows = []
    for name, method in report.methods.items():
        first, *others = (own.get(name, DASH) for own in spreads.values())
        cells = [name, first, *(_format_verdict(leading, name, against) for against in leading.families)]
        if papers:
            theirs = ((i, find_published_value(table, method)) for i, table in papers)
            texts = (f"{format_value(v, leading.metric)} [{i}]" for i, v in theirs if v is not None)
            cells.append(", ".join(texts) or DASH)
        rows.append([*cells, *others])
    first, *others = (result.metric_title for result in report.comparisons)
    tests = [COLUMN_TITLES[against].format(leading.baseline) for against in leading.families]
    return Table(["method", first, *tests, *(["papers"] if papers else []), *others], rows)


def _format_spreads(result: DatasetComparison) -> dict[str, str]:
    """Return each method's mean ± SD over folds; in bold if it is the best, and every test says so."""
    best = result.find_significant_best({m.method: m.mean for m in result.methods})
    texts = {m.method: format_spread(m.mean, m.sd_over_folds, result.metric) for m in result.methods}
    return {name: BestCell(text) if name == best else text for name, text in texts.items()}


def _format_verdict(result: DatasetComparison, name: str, against: str) -> str:
    found = next((c for c in result.select_case_means(against) if c.method == name), None)
    if found is None:
        return "baseline" if against == BASELINE and name == result.baseline else DASH
    return f"{format_difference(found.difference, result.metric)}, {found.verdict_text}"


def build_label_table(report: StudyReport, result: DatasetComparison) -> Table:
    """Return the means per label over the cases where it is defined, and the mean of the labels.

    The longer side, labels or methods, goes downwards.
    """
    means: dict[str, dict[str, float]] = {}
    overall: list[float] = []
    for name, method in report.methods.items():
        scores = report.select_scores(method, result.metric)
        overall.append(compute_foreground_mean(scores, result.metric))
        for row in summarise(scores):
            means.setdefault(row.label, {})[name] = row.mean
    rows = []
    for label in result.labels:
        own = means.get(label[0], {})
        best = result.find_significant_best(own, label[0])
        texts = ((name, format_value(own.get(name, math.nan), result.metric)) for name in report.methods)
        rows.append(
            [format_label(label), *(BestCell(text) if name == best else text for name, text in texts)]
        )
    rows.append(["mean of labels", *(format_value(value, result.metric) for value in overall)])
    if len(report.methods) > len(rows):
        names, *columns = zip(*rows, strict=True)
        by_method = zip(report.methods, columns, strict=True)
        return Table(("method", *names), [(name, *cells) for name, cells in by_method], result.metric_title)
    return Table(("label", *report.methods), rows, result.metric_title)


def build_case_table(report: StudyReport) -> Table:
    """Return a row per case and label of one method, with every metric."""
    metrics = [result.metric for result in report.comparisons]
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for s in report.scores:
        values.setdefault((s.case, s.label_name or s.label, str(s.n_voxels)), {})[s.metric] = s.value
    rows = [
        (case, label, *(format_value(own.get(metric, math.nan), metric) for metric in metrics), n_voxels)
        for (case, label, n_voxels), own in values.items()
    ]
    titles = (result.metric_title for result in report.comparisons)
    return Table(("case", "label", *titles, "voxels"), rows, n_text=2)


def build_training_table(report: StudyReport) -> Table:
    """Return folds, epochs, time, pseudo Dice and device of the methods with logs."""
    rows = []
    for name, method in report.methods.items():
        runs = report.select_runs(method)
        if not runs:
            continue
        seconds = np.concatenate([run.curves.epoch_s for run in runs])
        rows.append(
            (
                name,
                format_folds(run.fold for run in runs),
                ", ".join(dict.fromkeys(str(run.curves.n_epochs) for run in runs)),
                format_number(compute_hours(runs), 2),
                format_number(float(np.median(seconds)), 1),
                format_value(fmean(run.curves.smooth_dice[-1] for run in runs), "dice"),
                ", ".join(dict.fromkeys(run.facts.get("GPU", run.facts.get("device", DASH)) for run in runs)),
            )
        )
    times = ("hours per fold", "seconds per epoch")
    return Table(("method", "folds", "epochs", *times, "last pseudo Dice", "device"), rows)


def _find_paper_values(report: StudyReport) -> Iterator[tuple[int, PublishedTable, str, Method, float]]:
    """Yield each number of a paper that stands beside one here: its table with its index, method, value."""
    metrics = {result.metric for result in report.comparisons}
    for i, table in enumerate(report.published, start=1):
        for name, method in report.methods.items():
            value = find_published_value(table, method)
            if value is not None and table.metric in metrics:
                yield i, table, name, method, value


def build_paper_table(report: StudyReport) -> Table:
    """Return each method beside each paper that has its network."""
    rows = []
    for i, table, name, method, value in _find_paper_values(report):
        here = compute_foreground_mean(report.select_scores(method, table.metric), table.metric)
        texts = (format_value(each, table.metric) for each in (here, value))
        comparable = "no" if find_differences(table, report.setup) else "not known"
        rows.append((name, get_metric_title(table.metric), *texts, f"[{i}]", comparable))
    return Table(("method", "metric", "here", "paper", "source", "comparable"), rows, n_text=2)


def build_paper_label_tables(report: StudyReport) -> list[Table]:
    """Return a table per paper and method for which the paper has values per label."""
    found = []
    for i, table, name, method, _ in _find_paper_values(report):
        rows = []
        for row in summarise(report.select_scores(method, table.metric)):
            theirs = find_published_label_value(table, method, row.label_name)
            if theirs is not None:
                texts = (format_value(value, table.metric) for value in (row.mean, theirs))
                rows.append((format_label((row.label, row.label_name)), *texts))
        if rows:
            header = ("label", f"{name}, here", f"paper [{i}]")
            found.append(Table(header, rows, get_metric_title(table.metric)))
    return found


def build_full_paper_table(index: int, table: PublishedTable) -> Table:
    """Return all networks of a paper's column, best first, in its unit."""
    higher_is_better = METRICS[table.metric].higher_is_better
    ranked = sorted(table.values.items(), key=lambda item: -item[1] if higher_is_better else item[1])
    unit = " (percent)" if table.scale == 100 else ""
    title = f"[{index}] {table.cases}"
    digits = max(len(f"{v:g}".partition(".")[2]) for v in table.values.values())
    rows = [(name, format_number(v, digits)) for name, v in ranked]
    return Table(("network", f"{get_metric_title(table.metric)}{unit}"), rows, title)


def build_confusion_table(voxels: np.ndarray, names: Sequence[str]) -> Table:
    """Return, per row, the percentages of a reference label's voxels predicted as each label."""
    totals = voxels.sum(1)
    rows: list[list[str]] = []
    for i, name in enumerate(names):
        shares = voxels[i] / totals[i] if totals[i] else np.full(len(names), np.nan)
        cells = [(format_share(share), float(share)) for share in shares]
        rows.append([name, *(text if text == DASH else ShadedCell(text, share) for text, share in cells)])
    return Table(("reference ↓ predicted →", *names), rows)


def build_facts_table(report: StudyReport) -> Table:
    """Return recipes and machines from the logs and the request, a column per method."""
    facts: dict[str, dict[str, str]] = {}
    for name, method in report.methods.items():
        runs = report.select_runs(method)
        for key in dict.fromkeys(key for run in runs for key in run.facts):
            values = dict.fromkeys(run.facts[key] for run in runs if key in run.facts)
            facts.setdefault(key, {})[name] = ", ".join(values)
    facts |= {key: dict.fromkeys(report.methods, text) for key, text in report.request.facts}
    with_facts = [name for name in report.methods if any(name in row for row in facts.values())]
    rows = [(key, *(row.get(name, DASH) for name in with_facts)) for key, row in facts.items()]
    return Table(("training", *with_facts), rows, n_text=1 + len(with_facts))


def compute_hours(runs: Sequence[TrainingRun]) -> float:
    """Return the mean hours per fold."""
    return fmean(run.hours for run in runs)
