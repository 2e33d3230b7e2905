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
from nnunet_mamba.study.statistics.methods import RELATIONS
from nnunet_mamba.study.statistics.ranking import Ranking
from nnunet_mamba.study.statistics.results import CASE_MEAN, Comparison, DatasetComparison, MethodSummary


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
        spreads = [(m.sd_over_folds, m.fold_means), *_list_seeds(m, result)]
        texts = (f"{format_value(sd, result.metric)} (n={len(n)})" if n else DASH for sd, n in spreads)
        values = (format_value(value, result.metric) for value in (m.mean, m.sd))
        rows.append((m.method, *values, *texts, str(m.n_cases)))
    spread = ("SD over folds", *(["SD over seeds"] if result.n_seeds > 1 else []))
    return Table(("method", "mean", "SD over cases", *spread, "cases"), rows, "Methods")


def _list_seeds(m: MethodSummary, result: DatasetComparison) -> list[tuple[float, dict[str, float]]]:
    return [(m.sd_over_seeds, m.seed_means)] if result.n_seeds > 1 else []


def build_comparison_tables(
    result: DatasetComparison, *, of_labels: bool, is_short: bool = False
) -> list[Table]:
    """Return a table for each family of tests of labels, or of case means; twins first.

    A short one, for a terminal, does without the probability of a false claim.
    """
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
            numbers = _format_numbers(c, result, is_short=is_short)
            rows.append((c.method, c.other, *label, c.verdict_text, *numbers.values()))
        margin = f"; margin {format_value(result.margin, result.metric)}" if result.has_margin else ""
        title = f"{result.metric_title} {family} (Holm over {n} test{'s' * (n != 1)}{margin})"
        tables.append(Table((*words, *numbers), rows, title, n_text=len(words)))
    return tables


def _format_numbers(c: Comparison, result: DatasetComparison, *, is_short: bool) -> dict[str, str]:
    gained = [d for d in c.fold_differences.values() if (d > 0 if result.higher_is_better else d < 0)]
    equivalence = {
        "90 % CI": format_interval(c.equivalence_low, c.equivalence_high, result.metric),
        "p equivalent (Holm)": format_p(c.p_equivalence_holm),
    }
    return {
        "difference": format_difference(c.difference, result.metric),
        "95 % CI": format_interval(c.ci_low, c.ci_high, result.metric),
        "p": format_p(c.p),
        "p (Holm)": format_p(c.p_holm),
        **(equivalence if result.has_margin else {}),
        **({} if is_short else {"false claim": format_p(c.p_false_claim)}),
        "wins": format_share(c.win_rate),
        "r": format_number(c.rank_biserial, 2, sign="+"),
        "folds": f"{len(gained)}/{len(c.fold_differences)}" if c.fold_differences else DASH,
        "pairs": str(c.n_pairs),
    }


def state_verdicts(result: DatasetComparison) -> list[str]:
    """Return a sentence per test of case means, whatever its verdict; twins first."""
    return [
        _state_verdict(c, result) for against in result.families for c in result.select_case_means(against)
    ]


def _state_verdict(c: Comparison, result: DatasetComparison) -> str:
    other = next((r.other for r in RELATIONS if r.against == c.against), "{}").format(c.other)
    margin = format_value(result.margin, result.metric)
    nor_equivalent = f", nor to be equivalent within {margin}" if result.has_margin else ""
    verdict = {
        "better": f"{c.method} is better than {other}",
        "worse": f"{c.method} is worse than {other}",
        "equivalent": f"{c.method} is equivalent to {other}, within {margin}",
        "not better": f"{c.method} is not shown to differ from {other}{nor_equivalent}",
        "mixed": f"{c.method} and {other} differ, but ranks and mean point in opposite directions",
        "too few pairs": f"{c.n_pairs} pairs are too few to tell {c.method} from {other}",
    }[c.verdict]
    if c.verdict_text != c.verdict:
        verdict += f", by less than the margin of {margin}"
    difference = format_difference(c.difference, result.metric)
    interval = f"95 % CI {format_interval(c.ci_low, c.ci_high, result.metric)}"
    if result.has_margin:
        interval += f", 90 % CI {format_interval(c.equivalence_low, c.equivalence_high, result.metric)}"
    is_doubtful = c.verdict in ("better", "worse") and c.ci_low <= 0 <= c.ci_high
    parts = [
        f"{verdict}: {result.metric_title} {difference} ({interval})",
        *(["though the interval includes 0"] if is_doubtful else []),
        *_state_spreads(c, result),
        *_count_label_verdicts(c, result),
    ]
    return f"{'; '.join(parts)}."


def _state_spreads(c: Comparison, result: DatasetComparison) -> list[str]:
    """Return the SDs of both methods over folds, and over seeds, where there are several."""
    methods = {m.method: m for m in result.methods}
    both = [methods[name] for name in (c.method, c.other)]
    found = {"folds": [m.sd_over_folds for m in both], "seeds": [m.sd_over_seeds for m in both]}
    texts = {of: [format_value(sd, result.metric) for sd in s if not isnan(sd)] for of, s in found.items()}
    return [f"SD over {of} {' and '.join(sds)}" for of, sds in texts.items() if sds]


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
