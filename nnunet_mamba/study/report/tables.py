"""Tables of a study, the same on the page and in the Markdown file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_mamba.study.evaluation import METRICS, compute_foreground_mean, summarise
from nnunet_mamba.study.report.content import (
    StudyReport,
    find_families,
    find_significant_best,
    format_folds,
    format_interval,
    format_label,
    format_metric,
    format_number,
    format_signed,
    format_value,
    get_metric_name,
    select_case_means,
)
from nnunet_mamba.study.report.document import BestCell, ReportTable, ShadedCell
from nnunet_mamba.study.report.published import (
    PublishedTable,
    find_differences,
    find_published_label_value,
    find_published_value,
)
from nnunet_mamba.study.statistics import DatasetComparison
from nnunet_mamba.study.statistics.results import BASELINE, CASE_MEAN, TWIN

COLUMN_TITLES = {TWIN: "against its twin", BASELINE: "against {}"}


def build_summary_table(report: StudyReport) -> ReportTable:
    """Return a row per method: the leading metric, its tests and papers' numbers, then the other metrics."""
    study = report.leading
    means = {s.metric: {m.method: m.mean for m in s.methods} for s in report.studies}
    best = {s.metric: find_significant_best(s, means[s.metric], CASE_MEAN) for s in report.studies}
    families = find_families(study)
    papers = [
        (i, table)
        for i, table in enumerate(report.published, start=1)
        if (table.metric, table.dataset) == (study.metric, report.setup.dataset)
    ]
    rows = []
    for name, method in report.methods.items():
        values = {}
        for each in report.studies:
            own = next((m for m in each.methods if m.method == name), None)
            text = "–" if own is None else format_fold_spread(own.mean, own.sd_over_folds, each)
            values[each.metric] = BestCell(text) if best[each.metric] == name else text
        leading, *others = values.values()
        cells = [name, leading, *(_format_verdict(study, name, against) for against in families)]
        if papers:
            theirs = ((i, find_published_value(table, method)) for i, table in papers)
            texts = (f"{format_value(value, study)} [{i}]" for i, value in theirs if value is not None)
            cells.append(", ".join(texts) or "–")
        rows.append([*cells, *others])
    first, *rest = (format_metric(s) for s in report.studies)
    titles = [COLUMN_TITLES[against].format(study.baseline) for against in families]
    return ReportTable(["method", first, *titles, *(["papers"] if papers else []), *rest], rows)


def _format_verdict(study: DatasetComparison, name: str, against: str) -> str:
    found = next((c for c in select_case_means(study, against) if c.method == name), None)
    if found is None:
        return "baseline" if against == BASELINE and name == study.baseline else "–"
    return f"{format_signed(found.difference, study)}, {found.verdict}"


def build_comparison_table(study: DatasetComparison, against: str) -> ReportTable:
    """Return the tests on case means, each difference with both methods' SD over folds."""
    sds = {m.method: m.sd_over_folds for m in study.methods}
    rows = [
        (
            f"{c.method} − {c.other}",
            format_signed(c.difference, study),
            format_interval(c, study),
            format_p(c.p_holm),
            c.verdict,
            "–" if math.isnan(c.win_rate) else f"{c.win_rate:.0%}",
            ", ".join(format_value(sds[name], study) for name in (c.method, c.other)),
            str(c.n_pairs),
        )
        for c in select_case_means(study, against)
    ]
    header = ("compared", "difference", "95 % CI", "p (Holm)", "verdict", "wins", "SD over folds", "pairs")
    return ReportTable(header, rows, f"{format_metric(study)}: {against}")


def build_ranking_table(study: DatasetComparison) -> ReportTable:
    """Return a column per rule: the rank, and the ranks in 95 % of resamples."""
    places = [{place.method: place for place in ranking.places} for ranking in study.rankings]
    ranked = [place.method for place in study.rankings[0].places]
    rows = [
        (name, *(f"{p[name].rank} ({p[name].rank_low} to {p[name].rank_high})" for p in places))
        for name in ranked
    ]
    return ReportTable(("method", *(ranking.rule for ranking in study.rankings)), rows, format_metric(study))


def build_label_table(report: StudyReport, study: DatasetComparison) -> ReportTable:
    """Return the means per label over the cases where it is defined, and the mean of the labels."""
    means: dict[str, dict[str, float]] = {}
    overall: dict[str, float] = {}
    for name, method in report.methods.items():
        scores = report.select_scores(method, study.metric)
        overall[name] = compute_foreground_mean(scores, study.metric)
        for row in summarise(scores):
            means.setdefault(row.label, {})[name] = row.mean
    rows = []
    for label in study.labels:
        own = means.get(label[0], {})
        best = find_significant_best(study, own, label[0])
        cells = (format_value(own.get(name, math.nan), study) for name in report.methods)
        named = zip(report.methods, cells, strict=True)
        rows.append(
            [format_label(label), *(BestCell(text) if name == best else text for name, text in named)]
        )
    rows.append(["mean of labels", *(format_value(value, study) for value in overall.values())])
    return ReportTable(("label", *report.methods), rows, format_metric(study))


def build_training_table(report: StudyReport) -> ReportTable:
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
                f"{np.mean([run.hours for run in runs]):.2f}",
                f"{np.median(seconds):.1f}",
                f"{np.mean([run.curves.smooth_dice[-1] for run in runs]):.3f}",
                ", ".join(dict.fromkeys(run.facts.get("GPU", run.facts.get("device", "–")) for run in runs)),
            )
        )
    times = ("hours per fold", "seconds per epoch")
    return ReportTable(("method", "folds", "epochs", *times, "last pseudo Dice", "device"), rows)


def build_paper_table(report: StudyReport) -> ReportTable:
    """Return each method beside each paper that has its network."""
    rows = []
    for i, table in enumerate(report.published, start=1):
        study = next((s for s in report.studies if s.metric == table.metric), None)
        for name, method in report.methods.items():
            value = find_published_value(table, method)
            if value is None or study is None:
                continue
            here = compute_foreground_mean(report.select_scores(method, table.metric), table.metric)
            rows.append(
                (
                    name,
                    get_metric_name(table.metric),
                    format_value(here, study),
                    f"{format_value(value, study)} [{i}]",
                    "no" if find_differences(table, report.setup) else "not known",
                )
            )
    return ReportTable(("method", "metric", "here", "paper", "comparable"), rows, n_text=2)


def build_paper_label_tables(report: StudyReport) -> list[ReportTable]:
    """Return a table per paper and method for which the paper has values per label."""
    found = []
    for i, table in enumerate(report.published, start=1):
        study = next((s for s in report.studies if s.metric == table.metric), None)
        for name, method in report.methods.items():
            if study is None or find_published_value(table, method) is None:
                continue
            here = {row.label: row.mean for row in summarise(report.select_scores(method, table.metric))}
            pairs = [(label, find_published_label_value(table, method, label[1])) for label in study.labels]
            rows = [
                (
                    format_label(label),
                    format_value(here.get(label[0], math.nan), study),
                    format_value(v, study),
                )
                for label, v in pairs
                if v is not None
            ]
            if rows:
                header = ("label", f"{name}, here", f"paper [{i}]")
                found.append(ReportTable(header, rows, get_metric_name(table.metric)))
    return found


def build_full_paper_table(index: int, table: PublishedTable) -> ReportTable:
    """Return all networks of a paper's column, best first, in its unit."""
    higher_is_better = METRICS[table.metric].higher_is_better
    ranked = sorted(table.values.items(), key=lambda item: -item[1] if higher_is_better else item[1])
    unit = " (percent)" if table.scale == 100 else ""
    title = f"[{index}] {table.cases}"
    digits = max(len(f"{v:g}".partition(".")[2]) for v in table.values.values())
    rows = [(name, format_number(v, digits)) for name, v in ranked]
    return ReportTable(("network", f"{get_metric_name(table.metric)}{unit}"), rows, title)


def build_confusion_table(voxels: np.ndarray, names: Sequence[str]) -> ReportTable:
    """Return, per row, the percentages of a reference label's voxels predicted as each label."""
    totals = voxels.sum(1)
    rows: list[list[str]] = []
    for i, name in enumerate(names):
        shares = voxels[i] / totals[i] if totals[i] else np.full(len(names), np.nan)
        rows.append([name, *(_format_share(float(share)) for share in shares)])
    return ReportTable(("reference ↓ predicted →", *names), rows)


def build_facts_table(report: StudyReport) -> ReportTable:
    """Return recipes and machines from the logs, a column per method."""
    facts: dict[str, dict[str, str]] = {}
    for name, method in report.methods.items():
        runs = report.select_runs(method)
        for key in dict.fromkeys(key for run in runs for key in run.facts):
            values = dict.fromkeys(run.facts[key] for run in runs if key in run.facts)
            facts.setdefault(key, {})[name] = ", ".join(values)
    with_facts = [name for name in report.methods if any(name in row for row in facts.values())]
    rows = [(key, *(row.get(name, "–") for name in with_facts)) for key, row in facts.items()]
    return ReportTable(("training", *with_facts), rows, n_text=1 + len(with_facts))


def format_fold_spread(mean: float, sd: float, study: DatasetComparison) -> str:
    """Return mean ± SD, or the mean alone if there is no SD."""
    text = format_value(mean, study)
    return text if math.isnan(sd) else f"{text} ± {format_value(sd, study)}"


def format_p(p: float) -> str:
    return "–" if math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _format_share(share: float) -> str:
    if math.isnan(share):
        return "–"
    text = "0" if share == 0 else "<0.1" if share < 0.001 else f"{100 * share:.1f}"
    return ShadedCell(text, share)


def compute_hours(report: StudyReport) -> Mapping[str, float]:
    """Return the mean hours per fold of the methods with logs."""
    found = {name: report.select_runs(method) for name, method in report.methods.items()}
    return {name: float(np.mean([run.hours for run in runs])) for name, runs in found.items() if runs}
