"""Output of a comparison: short text for a terminal, Markdown with everything, JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.study.statistics.results import CASE_MEAN, TWIN, Comparison, DatasetComparison

COMPARED = ("method", "other", "difference", "95 % CI", "p", "p (Holm)", "wins", "r", "folds", "verdict")


@dataclass(frozen=True)
class TextTable:
    """Table with a title and notes, its cells as text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def as_text(results: Iterable[DatasetComparison]) -> str:
    """Return text for a terminal: case means only; of labels, how many are better and worse."""
    blocks = []
    for result in results:
        blocks.append(
            "\n".join([_headline(result), *_facts(result), *(f"warning: {text}" for text in result.warnings)])
        )
        for table in (
            _methods_table(result),
            *_family_tables(result, labels=False),
            *_ranking_tables(result),
        ):
            blocks.append("\n".join([table.title, *_aligned(table), *table.notes]))
    return "\n\n".join(blocks)


def as_markdown(results: Iterable[DatasetComparison]) -> str:
    """Return Markdown with everything, each label included, and how to read it."""
    blocks = ["# Comparison of methods"]
    for result in results:
        blocks += [f"## {_headline(result)}", "\n".join(f"* {line}" for line in _facts(result))]
        blocks += [f"> warning: {text}" for text in result.warnings]
        for table in (
            _methods_table(result),
            *_family_tables(result, labels=True),
            *_ranking_tables(result),
            _rank_shares_table(result),
        ):
            blocks += [f"### {table.title}", "\n".join(_piped(table))]
            blocks += ["\n".join(f"* {note}" for note in table.notes)] if table.notes else []
    return "\n\n".join([*blocks, READING]) + "\n"


READING = """## How to read this

* difference: method - other, the mean over cases. 95 % CI: BCa bootstrap over patients, for the models as
  trained.
* p: Wilcoxon's signed rank test of patients' means, two-sided, ranks of zeros halved. p (Holm): corrected for
  the tests of one table.
* wins: share of patients where the method is better, ties half. r: matched-pairs rank-biserial correlation,
  -1 to 1, positive where the method is better. folds: in how many its mean is better.
* better, worse: p (Holm) below 0.05. not better: no difference was shown; the interval says how large one
  could be. mixed: ranks and mean point in opposite directions. too few pairs: fewer than 6, where no outcome
  would be significant.
* SD over folds: how far a method's mean moves from fold to fold, a yardstick for differences. Training again
  with another seed moves it too, and no interval here knows how far."""


def _headline(result: DatasetComparison) -> str:
    way = "higher" if result.higher_is_better else "lower"
    dataset = result.dataset or "Dataset not stated"
    return f"{dataset}, {result.metric} ({way} is better), protocol {result.protocol or 'not stated'}"


def _facts(result: DatasetComparison) -> list[str]:
    patients = f" of {result.n_patients} patients" if result.n_patients < result.n_cases else ""
    resampled = "patients" if patients else "cases"
    labels = f"{len(result.labels)} label{'s' * (len(result.labels) > 1)}"
    return [
        f"{result.n_cases} cases{patients}, {labels}; a case counts by its mean over labels",
        f"intervals and rankings: {result.n_bootstrap} resamples of {resampled}, seed {result.seed}",
    ]


def _methods_table(result: DatasetComparison) -> TextTable:
    rows = []
    for m in sorted(result.methods, key=lambda m: -m.mean if result.higher_is_better else m.mean):
        folds = f"{_number(m.sd_over_folds, result)} (n={len(m.fold_means)})" if m.fold_means else "-"
        rows.append((m.method, _number(m.mean, result), _number(m.sd, result), folds, str(m.n_cases)))
    return TextTable("Methods", ("method", "mean", "SD over cases", "SD over folds", "cases"), rows)


def _family_tables(result: DatasetComparison, *, labels: bool) -> list[TextTable]:
    """Return a table for each family of tests, twins first; without `labels`, those of case means."""
    families: dict[str, list[Comparison]] = {}
    for c in result.comparisons:
        if labels or c.label == CASE_MEAN:
            families.setdefault(c.family, []).append(c)
    return [_family_table(result, name, members) for name, members in families.items()]


def _family_table(result: DatasetComparison, name: str, members: Sequence[Comparison]) -> TextTable:
    on_labels = members[0].label != CASE_MEAN
    rows = [
        (c.method, c.other, *([c.label_name or c.label] if on_labels else []), *_result_cells(c, result))
        for c in members
    ]
    n = members[0].n_family
    return TextTable(
        f"{name[0].upper()}{name[1:]} (Holm over {n} test{'s' * (n != 1)})",
        (*COMPARED[:2], *(["label"] if on_labels else []), *COMPARED[2:]),
        rows,
        [] if on_labels else [_sentence(c, result) for c in members],
    )


def _result_cells(c: Comparison, result: DatasetComparison) -> tuple[str, ...]:
    gained = [d for d in c.fold_differences.values() if (d > 0 if result.higher_is_better else d < 0)]
    return (
        _number(c.difference, result, sign="+"),
        _interval(c, result),
        _p(c.p),
        _p(c.p_holm),
        "-" if isnan(c.win_rate) else f"{c.win_rate:.0%}",
        "-" if isnan(c.rank_biserial) else f"{round(c.rank_biserial, 2) + 0.0:+.2f}",
        f"{len(gained)}/{len(c.fold_differences)}" if c.fold_differences else "-",
        c.verdict,
    )


def _sentence(c: Comparison, result: DatasetComparison) -> str:
    """Return the verdict as a sentence, with the difference and the SD over folds."""
    other = f"its twin {c.other}" if c.against == TWIN else c.other
    sentence = {
        "better": f"{c.method} is better than {other}",
        "worse": f"{c.method} is worse than {other}",
        "not better": f"{c.method} is not better than {other}: no difference was shown",
        "mixed": f"{c.method} and {other} differ, but ranks and mean point in opposite directions",
        "too few pairs": f"{c.method} and {other}: {c.n_pairs} pairs cannot show a difference",
    }[c.verdict]
    sds = {m.method: m.sd_over_folds for m in result.methods if not isnan(m.sd_over_folds)}
    spread = [_number(sds[name], result) for name in (c.method, c.other) if name in sds]
    folds = f"; SD over folds {' and '.join(spread)}" if spread else ""
    by_label = _labels_of(c, result)
    return f"{sentence}. {_number(c.difference, result, sign='+')} ({_interval(c, result)}){folds}{by_label}."


def _labels_of(c: Comparison, result: DatasetComparison) -> str:
    """Return how many labels are better and worse, of the same two methods."""
    same = (c.against, c.method, c.other)
    verdicts = [
        each.verdict
        for each in result.comparisons
        if each.label != CASE_MEAN and (each.against, each.method, each.other) == same
    ]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return f"; of {len(verdicts)} labels {better} better, {worse} worse" if verdicts else ""


def _ranking_tables(result: DatasetComparison) -> list[TextTable]:
    return [
        TextTable(
            f"Ranking: {ranking.rule}",
            ("rank", "method", "mean rank" if "rank then" in ranking.rule else "mean", "95 % of resamples"),
            [
                (
                    str(p.rank),
                    p.method,
                    f"{p.value:.2f}" if "rank then" in ranking.rule else _number(p.value, result),
                    f"{p.rank_low} to {p.rank_high}",
                )
                for p in ranking.places
            ],
            [
                f"Kendall's tau of resamples with this ranking: {ranking.tau:.2f} "
                f"({ranking.tau_low:.2f} to {ranking.tau_high:.2f})"
            ],
        )
        for ranking in result.rankings
    ]


def _rank_shares_table(result: DatasetComparison) -> TextTable:
    """Return a table of how often resamples give each rank."""
    ranks = [str(i + 1) for i in range(len(result.methods))]
    rows = [
        (ranking.rule, p.method, *(f"{share:.0%}" for share in p.rank_shares))
        for ranking in result.rankings
        for p in ranking.places
    ]
    return TextTable("Resamples with each rank", ("rule", "method", *ranks), rows)


def _number(value: float, result: DatasetComparison, sign: str = "") -> str:
    """Return the number with four decimals if higher is better (shares), else with two (distances)."""
    digits = 4 if result.higher_is_better else 2
    return "-" if isnan(value) else f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # no -0.00


def _interval(c: Comparison, result: DatasetComparison) -> str:
    if isnan(c.ci_low):
        return "-"
    return f"{_number(c.ci_low, result, sign='+')} to {_number(c.ci_high, result, sign='+')}"


def _p(p: float) -> str:
    return "-" if isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _aligned(table: TextTable) -> list[str]:
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def _piped(table: TextTable) -> list[str]:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def write_results(results: Sequence[DatasetComparison], out: Path) -> list[Path]:
    """Write comparison.md, .json and .csv into the folder `out`, or one of them if `out` has such an ending.

    The CSV has challengeR's columns and the values that are ranked: a case's mean over labels.
    """
    out = Path(out)
    formats = {".md": as_markdown, ".json": as_json, ".csv": as_csv}
    if out.suffix and out.suffix not in formats and not out.is_dir():
        raise ValueError(f"{out} should be a folder, or end in {', '.join(formats)}.")
    single = out.suffix in formats and not out.is_dir()
    files = [out] if single else [out / f"comparison{ending}" for ending in formats]
    for file in files:
        write_text(file, formats[file.suffix](results))
    return files


def as_json(results: Iterable[DatasetComparison]) -> str:
    """Return the fields of each `DatasetComparison` as JSON; null for a number that is not defined."""
    return json.dumps([_plain(asdict(result)) for result in results], indent=1, allow_nan=False) + "\n"


def as_csv(results: Iterable[DatasetComparison]) -> str:
    """Return the case means in challengeR's columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "alg_name", "case", "value"))
    for result in results:
        for method, means in result.case_means.items():
            writer.writerows((result.dataset, method, case, value) for case, value in means.items())
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Return a value fit for JSON: lists for tuples, None for NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value
