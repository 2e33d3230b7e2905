"""The tables of a study, as they stand on the page and in the Markdown file alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_mamba.study.evaluation import METRICS, mean_foreground, summarise
from nnunet_mamba.study.report.document import Best, Shaded, Table
from nnunet_mamba.study.report.markup import number
from nnunet_mamba.study.report.study.charts import label_title
from nnunet_mamba.study.report.study.content import (
    StudyReport,
    folds_told,
    listed,
    metric_name,
    n_digits,
    on_case_means,
    proven_best,
    signed,
    titled,
)
from nnunet_mamba.study.report.study.published import (
    PublishedTable,
    differences,
    label_value,
    value_of,
)
from nnunet_mamba.study.statistics import Comparison, DatasetComparison
from nnunet_mamba.study.statistics.results import BASELINE, CASE_MEAN, TWIN

HEADS = {TWIN: "against its twin", BASELINE: "against {}"}


def summary_table(report: StudyReport) -> Table:
    """A row per method: the leading metric, what its tests and papers say, then the other metrics."""
    study = report.leading
    means = {s.metric: {m.method: m.mean for m in s.methods} for s in report.studies}
    best = {s.metric: proven_best(s, means[s.metric], CASE_MEAN) for s in report.studies}
    known = [against for against in (TWIN, BASELINE) if on_case_means(study, against)]
    papers = [
        (i, table)
        for i, table in enumerate(report.published, start=1)
        if (table.metric, table.dataset) == (study.metric, report.ours.dataset)
    ]
    rows = []
    for name, method in report.methods.items():
        values = {}
        for each in report.studies:
            own = next((m for m in each.methods if m.method == name), None)
            text = "–" if own is None else spread_over_folds(own.mean, own.sd_over_folds, each)
            values[each.metric] = Best(text) if best[each.metric] == name else text
        leading, *others = values.values()
        cells = [name, leading, *(_verdict(study, name, against) for against in known)]
        if papers:
            theirs = ((i, value_of(table, method)) for i, table in papers)
            cells.append(listed(f"{_value(v, study)} [{i}]" for i, v in theirs if v is not None) or "–")
        rows.append([*cells, *others])
    first, *rest = (titled(s) for s in report.studies)
    heads = [HEADS[against].format(study.baseline) for against in known]
    return Table(["method", first, *heads, *(["papers"] if papers else []), *rest], rows)


def _verdict(study: DatasetComparison, name: str, against: str) -> str:
    found = next((c for c in on_case_means(study, against) if c.method == name), None)
    if found is None:
        return "baseline" if against == BASELINE and name == study.baseline else "–"
    return f"{signed(found.difference, study)}, {found.verdict}"


def comparison_table(study: DatasetComparison, against: str) -> Table:
    """The tests on case means, each difference beside the spread over folds of both methods."""
    sds = {m.method: m.sd_over_folds for m in study.methods}
    rows = [
        (
            f"{c.method} − {c.other}",
            signed(c.difference, study),
            interval(c, study),
            p_value(c.p_holm),
            c.verdict,
            "–" if math.isnan(c.win_rate) else f"{c.win_rate:.0%}",
            listed(number(sds[name], n_digits(study)) for name in (c.method, c.other)),
            str(c.n_pairs),
        )
        for c in on_case_means(study, against)
    ]
    header = ("compared", "difference", "95 % CI", "p (Holm)", "verdict", "wins", "SD over folds", "pairs")
    return Table(header, rows, f"{titled(study)}: {against}")


def ranking_table(study: DatasetComparison) -> Table:
    """A column per rule: the rank, and the ranks that 95 % of resamples give."""
    places = [{place.method: place for place in ranking.places} for ranking in study.rankings]
    ranked = [place.method for place in study.rankings[0].places]
    rows = [
        (name, *(f"{p[name].rank} ({p[name].rank_low} to {p[name].rank_high})" for p in places))
        for name in ranked
    ]
    return Table(("method", *(ranking.rule for ranking in study.rankings)), rows, titled(study))


def label_table(report: StudyReport, study: DatasetComparison) -> Table:
    """Means per label over the cases where it is defined, and below them the mean of the labels."""
    means: dict[str, dict[str, float]] = {}
    overall: dict[str, float] = {}
    for name, method in report.methods.items():
        scores = report.scores_of(method, study.metric)
        overall[name] = mean_foreground(scores, study.metric)
        for row in summarise(scores):
            means.setdefault(row.label, {})[name] = row.mean
    rows = []
    for label in study.labels:
        own = means.get(label[0], {})
        best = proven_best(study, own, label[0])
        cells = (number(own.get(name, math.nan), n_digits(study)) for name in report.methods)
        rows.append(
            [
                label_title(label),
                *(
                    Best(text) if name == best else text
                    for name, text in zip(report.methods, cells, strict=True)
                ),
            ]
        )
    rows.append(["mean of labels", *(number(value, n_digits(study)) for value in overall.values())])
    return Table(("label", *report.methods), rows, titled(study))


def training_table(report: StudyReport) -> Table:
    rows = []
    for name, method in report.methods.items():
        trainings = report.trainings_of(method)
        if not trainings:
            continue
        seconds = np.concatenate([t.curves.epoch_s for t in trainings])
        rows.append(
            (
                name,
                folds_told(t.fold for t in trainings),
                listed(dict.fromkeys(str(t.curves.n_epochs) for t in trainings)),
                f"{np.mean([t.hours for t in trainings]):.2f}",
                f"{np.median(seconds):.1f}",
                f"{np.mean([t.curves.smooth_dice[-1] for t in trainings]):.3f}",
                listed(dict.fromkeys(t.facts.get("GPU", t.facts.get("device", "–")) for t in trainings)),
            )
        )
    header = (
        "method",
        "folds",
        "epochs",
        "hours per fold",
        "seconds per epoch",
        "last pseudo Dice",
        "device",
    )
    return Table(header, rows)


def paper_table(report: StudyReport) -> Table:
    """Each of our methods beside each paper that has its network."""
    rows = []
    for i, table in enumerate(report.published, start=1):
        study = next((s for s in report.studies if s.metric == table.metric), None)
        for name, method in report.methods.items():
            value = value_of(table, method)
            if value is None or study is None:
                continue
            here = mean_foreground(report.scores_of(method, table.metric), table.metric)
            rows.append(
                (
                    name,
                    metric_name(table.metric),
                    number(here, n_digits(study)),
                    f"{_value(value, study)} [{i}]",
                    "no" if differences(table, report.ours) else "not known",
                )
            )
    return Table(("method", "metric", "here", "paper", "comparable"), rows, n_text=2)


def paper_label_tables(report: StudyReport) -> list[Table]:
    """Per label, where a paper has that of one of our methods."""
    found = []
    for i, table in enumerate(report.published, start=1):
        study = next((s for s in report.studies if s.metric == table.metric), None)
        for name, method in report.methods.items():
            if study is None or value_of(table, method) is None:
                continue
            here = {row.label: row.mean for row in summarise(report.scores_of(method, table.metric))}
            pairs = [(label, label_value(table, method, label[1])) for label in study.labels]
            rows = [
                (label_title(label), number(here.get(label[0], math.nan), n_digits(study)), _value(v, study))
                for label, v in pairs
                if v is not None
            ]
            if rows:
                found.append(
                    Table(("label", f"{name}, here", f"paper [{i}]"), rows, metric_name(table.metric))
                )
    return found


def whole_paper_table(index: int, table: PublishedTable) -> Table:
    """All networks of a paper's column, best first, in its unit."""
    higher = METRICS[table.metric].higher_is_better
    ranked = sorted(table.values.items(), key=lambda item: -item[1] if higher else item[1])
    unit = " (percent)" if table.scale == 100 else ""
    title = f"[{index}] {table.cases}"
    digits = max(len(f"{v:g}".partition(".")[2]) for v in table.values.values())
    rows = [(name, number(v, digits)) for name, v in ranked]
    return Table(("network", f"{metric_name(table.metric)}{unit}"), rows, title)


def confusion_table(voxels: np.ndarray, names: Sequence[str]) -> Table:
    """Rows: of the reference's voxels of a label, the percentage that was given each label."""
    totals = voxels.sum(1)
    rows: list[list[str]] = []
    for i, name in enumerate(names):
        shares = voxels[i] / totals[i] if totals[i] else np.full(len(names), np.nan)
        rows.append([name, *(_percent(float(share)) for share in shares)])
    return Table(("reference ↓ predicted →", *names), rows)


def facts_table(report: StudyReport) -> Table:
    """What the logs tell of recipes and machines: methods beside each other."""
    facts: dict[str, dict[str, str]] = {}
    for name, method in report.methods.items():
        trainings = report.trainings_of(method)
        for key in dict.fromkeys(key for t in trainings for key in t.facts):
            values = dict.fromkeys(t.facts[key] for t in trainings if key in t.facts)
            facts.setdefault(key, {})[name] = listed(values)
    with_facts = [name for name in report.methods if any(name in row for row in facts.values())]
    rows = [(key, *(row.get(name, "–") for name in with_facts)) for key, row in facts.items()]
    return Table(("training", *with_facts), rows, n_text=1 + len(with_facts))


def spread_over_folds(mean: float, sd: float, study: DatasetComparison) -> str:
    text = number(mean, n_digits(study))
    return text if math.isnan(sd) else f"{text} ± {number(sd, n_digits(study))}"


def interval(c: Comparison, study: DatasetComparison) -> str:
    if math.isnan(c.ci_low):
        return "–"
    return f"{signed(c.ci_low, study)} to {signed(c.ci_high, study)}"


def p_value(p: float) -> str:
    return "–" if math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _value(value: float | None, study: DatasetComparison) -> str:
    """A paper's number in our unit."""
    return "–" if value is None else number(value, n_digits(study))


def _percent(share: float) -> str:
    if math.isnan(share):
        return "–"
    text = "0" if share == 0 else "<0.1" if share < 0.001 else f"{100 * share:.1f}"
    return Shaded(text, share)


def hours_of(report: StudyReport) -> Mapping[str, float]:
    """Mean hours per fold of the methods whose logs tell them."""
    found = {name: report.trainings_of(method) for name, method in report.methods.items()}
    return {name: float(np.mean([t.hours for t in ts])) for name, ts in found.items() if ts}
