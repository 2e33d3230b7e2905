"""Tables and sentences on results, for `compare`, `evaluate`, the quickstart and reports."""

from collections.abc import Sequence
from math import isnan

from nnunet_mamba.io.document import Paragraph
from nnunet_mamba.io.tables import Table
from nnunet_mamba.study.evaluation import Score, compute_foreground_mean, summarise
from nnunet_mamba.study.evaluation.table import Summary
from nnunet_mamba.study.statistics.formats import (
    DASH,
    format_difference,
    format_interval,
    format_label,
    format_metric,
    format_number,
    format_p,
    format_share,
    format_spread,
    format_value,
)
from nnunet_mamba.study.statistics.ranking import Ranking
from nnunet_mamba.study.statistics.results import CASE_MEAN, TWIN, Comparison, DatasetComparison

NUMBERS = ("difference", "95 % CI", "p", "p (Holm)", "wins", "r", "folds", "pairs")


def build_score_table(scores: Sequence[Score], metrics: Sequence[str] = ()) -> Table:
    """Return a row per label of one method: each metric's mean ± SD over cases; and the mean over labels.

    A cell names its number of cases where that is not the one of the label's first metric.
    """
    protocols = {score.metric: score.protocol for score in scores}
    metrics = list(metrics) or list(protocols)
    found: dict[tuple[str, str], dict[str, Summary]] = {}
    for row in summarise(score for score in scores if score.metric in metrics):
        found.setdefault((row.label, row.label_name), {})[row.metric] = row
    rows = []
    for label, cells in found.items():
        first = next(cells[metric] for metric in metrics if metric in cells)
        texts = (_format_summary(cells.get(metric), first.n_cases) for metric in metrics)
        rows.append([format_label(label), *texts, str(first.n_cases), str(first.n_excluded), label[0]])
    means = (format_value(compute_foreground_mean(scores, metric), metric) for metric in metrics)
    rows.append(["mean of labels", *means, "", "", ""])
    titles = (format_metric(metric, protocols.get(metric, "")) for metric in metrics)
    return Table(("label", *titles, "cases", "not counted", "value"), rows)


def _format_summary(row: Summary | None, n_cases: int) -> str:
    if row is None:
        return DASH
    text = format_spread(row.mean, row.sd, row.metric)
    return text if row.n_cases == n_cases else f"{text} (n={row.n_cases})"


def build_method_table(result: DatasetComparison) -> Table:
    """Return a row per method, best first."""
    rows = []
    for m in result.ranked_methods:
        folds = f"{format_value(m.sd_over_folds, result.metric)} (n={len(m.fold_means)})"
        values = (format_value(value, result.metric) for value in (m.mean, m.sd))
        rows.append((m.method, *values, folds if m.fold_means else DASH, str(m.n_cases)))
    return Table(("method", "mean", "SD over cases", "SD over folds", "cases"), rows, "Methods")


def build_comparison_tables(result: DatasetComparison, *, of_labels: bool) -> list[Table]:
    """Return a table for each family of tests of labels, or of case means; twins first."""
    families: dict[str, list[Comparison]] = {}
    for c in result.comparisons:
        if (c.label != CASE_MEAN) == of_labels:
            families.setdefault(c.family, []).append(c)
    words = ("method", "other", *(["label"] if of_labels else []), "verdict")
    tables = []
    for family, members in families.items():
        n = members[0].n_family
        rows = []
        for c in members:
            label = [format_label((c.label, c.label_name))] if of_labels else []
            rows.append((c.method, c.other, *label, c.verdict, *_format_numbers(c, result)))
        title = f"{result.metric_title} {family} (Holm over {n} test{'s' * (n != 1)})"
        tables.append(Table((*words, *NUMBERS), rows, title, n_text=len(words)))
    return tables


def _format_numbers(c: Comparison, result: DatasetComparison) -> tuple[str, ...]:
    gained = [d for d in c.fold_differences.values() if (d > 0 if result.higher_is_better else d < 0)]
    return (
        format_difference(c.difference, result.metric),
        format_interval(c.ci_low, c.ci_high, result.metric),
        format_p(c.p),
        format_p(c.p_holm),
        format_share(c.win_rate),
        format_number(c.rank_biserial, 2, sign="+"),
        f"{len(gained)}/{len(c.fold_differences)}" if c.fold_differences else DASH,
        str(c.n_pairs),
    )


def state_verdicts(result: DatasetComparison) -> list[str]:
    """Return a sentence per test of case means, whatever its verdict; twins first."""
    return [
        _state_verdict(c, result) for against in result.families for c in result.select_case_means(against)
    ]


def _state_verdict(c: Comparison, result: DatasetComparison) -> str:
    other = f"its twin without SSM, {c.other}" if c.against == TWIN else c.other
    verdict = {
        "better": f"{c.method} is better than {other}",
        "worse": f"{c.method} is worse than {other}",
        "not better": f"{c.method} is not shown to differ from {other}",
        "mixed": f"{c.method} and {other} differ, but ranks and mean point in opposite directions",
        "too few pairs": f"{c.n_pairs} pairs are too few to tell {c.method} from {other}",
    }[c.verdict]
    difference = format_difference(c.difference, result.metric)
    interval = format_interval(c.ci_low, c.ci_high, result.metric)
    is_doubtful = c.verdict in ("better", "worse") and c.ci_low <= 0 <= c.ci_high
    sds = {m.method: m.sd_over_folds for m in result.methods if not isnan(m.sd_over_folds)}
    spreads = [format_value(sds[name], result.metric) for name in (c.method, c.other) if name in sds]
    parts = [
        f"{verdict}: {result.metric_title} {difference} (95 % CI {interval})",
        *(["though the interval includes 0"] if is_doubtful else []),
        *([f"SD over folds {' and '.join(spreads)}"] if spreads else []),
        *_count_label_verdicts(c, result),
    ]
    return f"{'; '.join(parts)}."


def _count_label_verdicts(c: Comparison, result: DatasetComparison) -> list[str]:
    """Return how many labels are better and worse, of the same two methods."""
    same = (c.against, c.method, c.other)
    verdicts = [
        each.verdict
        for each in result.comparisons
        if each.label != CASE_MEAN and (each.against, each.method, each.other) == same
    ]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return [f"of {len(verdicts)} labels {better} better, {worse} worse"] if verdicts else []


def build_warnings(result: DatasetComparison) -> list[Paragraph]:
    """Return a paragraph per warning."""
    return [Paragraph(f"Warning: {text}.", is_warning=True) for text in result.warnings]


def build_ranking_tables(result: DatasetComparison, *, with_shares: bool) -> list[Table]:
    """Return each ranking; with shares, also how often resamples give each rank."""
    tables = [_build_ranking_table(ranking, result) for ranking in result.rankings]
    if with_shares and tables:
        rows = [
            (ranking.rule, place.method, *map(format_share, place.rank_shares))
            for ranking in result.rankings
            for place in ranking.places
        ]
        ranks = (str(i + 1) for i in range(len(result.methods)))
        tables.append(Table(("rule", "method", *ranks), rows, "Resamples with each rank", n_text=2))
    return tables


def _build_ranking_table(ranking: Ranking, result: DatasetComparison) -> Table:
    is_of_ranks = "rank then" in ranking.rule
    rows = [
        (
            str(place.rank),
            place.method,
            format_number(place.value, 2) if is_of_ranks else format_value(place.value, result.metric),
            f"{place.rank_low} to {place.rank_high}",
        )
        for place in ranking.places
    ]
    taus = (format_number(tau, 2) for tau in (ranking.tau, ranking.tau_low, ranking.tau_high))
    note = "Kendall's tau of resamples with this ranking: {} ({} to {})".format(*taus)
    header = ("rank", "method", "mean rank" if is_of_ranks else "mean", "95 % of resamples")
    return Table(header, rows, f"Ranking: {ranking.rule}", n_text=2, notes=[note])
