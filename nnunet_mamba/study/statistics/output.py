"""A study in words and tables: short for a terminal, whole in Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan

from nnunet_mamba.study.statistics.study import CASE_MEAN, TWIN, Comparison, Study

COMPARED = ("method", "other", "difference", "95 % CI", "p", "p (Holm)", "wins", "r", "folds", "verdict")


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def as_text(studies: Iterable[Study]) -> str:
    """Case means alone; labels are counted."""
    blocks = []
    for study in studies:
        blocks.append(
            "\n".join([_headline(study), *_facts(study), *(f"warning: {text}" for text in study.warnings)])
        )
        for table in (_methods(study), *_families(study, labels=False), *_rankings(study)):
            blocks.append("\n".join([table.title, *_aligned(table), *table.notes]))
    return "\n\n".join(blocks)


def as_markdown(studies: Iterable[Study]) -> str:
    """Everything, each label included, and how to read it."""
    blocks = ["# Comparison of methods"]
    for study in studies:
        blocks += [f"## {_headline(study)}", "\n".join(f"* {line}" for line in _facts(study))]
        blocks += [f"> warning: {text}" for text in study.warnings]
        for table in (
            _methods(study),
            *_families(study, labels=True),
            *_rankings(study),
            _rank_shares(study),
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


def _headline(study: Study) -> str:
    way = "higher" if study.higher_is_better else "lower"
    dataset = study.dataset or "Dataset not stated"
    return f"{dataset}, {study.metric} ({way} is better), protocol {study.protocol or 'not stated'}"


def _facts(study: Study) -> list[str]:
    patients = f" of {study.n_patients} patients" if study.n_patients < study.n_cases else ""
    resampled = "patients" if patients else "cases"
    labels = f"{len(study.labels)} label{'s' * (len(study.labels) > 1)}"
    return [
        f"{study.n_cases} cases{patients}, {labels}; a case counts by its mean over labels",
        f"intervals and rankings: {study.n_bootstrap} resamples of {resampled}, seed {study.seed}",
    ]


def _methods(study: Study) -> Table:
    rows = []
    for m in sorted(study.methods, key=lambda m: -m.mean if study.higher_is_better else m.mean):
        folds = f"{_number(m.sd_over_folds, study)} (n={len(m.fold_means)})" if m.fold_means else "-"
        rows.append((m.method, _number(m.mean, study), _number(m.sd, study), folds, str(m.n_cases)))
    return Table("Methods", ("method", "mean", "SD over cases", "SD over folds", "cases"), rows)


def _families(study: Study, *, labels: bool) -> list[Table]:
    """A table for each family, twins first; without `labels`, those of case means."""
    families: dict[str, list[Comparison]] = {}
    for c in study.comparisons:
        if labels or c.label == CASE_MEAN:
            families.setdefault(c.family, []).append(c)
    return [_family(study, name, members) for name, members in families.items()]


def _family(study: Study, name: str, members: Sequence[Comparison]) -> Table:
    on_labels = members[0].label != CASE_MEAN
    rows = [
        (c.method, c.other, *([c.label_name or c.label] if on_labels else []), *_result(c, study))
        for c in members
    ]
    n = members[0].n_family
    return Table(
        f"{name[0].upper()}{name[1:]} (Holm over {n} test{'s' * (n != 1)})",
        (*COMPARED[:2], *(["label"] if on_labels else []), *COMPARED[2:]),
        rows,
        [] if on_labels else [_sentence(c, study) for c in members],
    )


def _result(c: Comparison, study: Study) -> tuple[str, ...]:
    gained = [d for d in c.fold_differences.values() if (d > 0 if study.higher_is_better else d < 0)]
    return (
        _number(c.difference, study, sign="+"),
        _interval(c, study),
        _p(c.p),
        _p(c.p_holm),
        "-" if isnan(c.win_rate) else f"{c.win_rate:.0%}",
        "-" if isnan(c.rank_biserial) else f"{round(c.rank_biserial, 2) + 0.0:+.2f}",
        f"{len(gained)}/{len(c.fold_differences)}" if c.fold_differences else "-",
        c.verdict,
    )


def _sentence(c: Comparison, study: Study) -> str:
    """The verdict as a sentence, the spread over folds beside the difference."""
    other = f"its twin {c.other}" if c.against == TWIN else c.other
    said = {
        "better": f"{c.method} is better than {other}",
        "worse": f"{c.method} is worse than {other}",
        "not better": f"{c.method} is not better than {other}: no difference was shown",
        "mixed": f"{c.method} and {other} differ, but ranks and mean point in opposite directions",
        "too few pairs": f"{c.method} and {other}: {c.n_pairs} pairs cannot show a difference",
    }[c.verdict]
    sds = {m.method: m.sd_over_folds for m in study.methods if not isnan(m.sd_over_folds)}
    spread = [_number(sds[name], study) for name in (c.method, c.other) if name in sds]
    folds = f"; SD over folds {' and '.join(spread)}" if spread else ""
    by_label = _labels_of(c, study)
    return f"{said}. {_number(c.difference, study, sign='+')} ({_interval(c, study)}){folds}{by_label}."


def _labels_of(c: Comparison, study: Study) -> str:
    """How many labels are better and worse, of the same two methods in the family of labels."""
    same = (c.against, c.method, c.other)
    verdicts = [
        each.verdict
        for each in study.comparisons
        if each.label != CASE_MEAN and (each.against, each.method, each.other) == same
    ]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return f"; of {len(verdicts)} labels {better} better, {worse} worse" if verdicts else ""


def _rankings(study: Study) -> list[Table]:
    return [
        Table(
            f"Ranking: {ranking.rule}",
            ("rank", "method", "mean rank" if "rank then" in ranking.rule else "mean", "95 % of resamples"),
            [
                (
                    str(p.rank),
                    p.method,
                    f"{p.value:.2f}" if "rank then" in ranking.rule else _number(p.value, study),
                    f"{p.rank_low} to {p.rank_high}",
                )
                for p in ranking.places
            ],
            [
                f"Kendall's tau of resamples with this ranking: {ranking.tau:.2f} "
                f"({ranking.tau_low:.2f} to {ranking.tau_high:.2f})"
            ],
        )
        for ranking in study.rankings
    ]


def _rank_shares(study: Study) -> Table:
    """How often resamples give each rank."""
    ranks = [str(i + 1) for i in range(len(study.methods))]
    rows = [
        (ranking.rule, p.method, *(f"{share:.0%}" for share in p.rank_shares))
        for ranking in study.rankings
        for p in ranking.places
    ]
    return Table("Resamples with each rank", ("rule", "method", *ranks), rows)


def _number(value: float, study: Study, sign: str = "") -> str:
    """Shares with four decimals, distances and the like with two."""
    digits = 4 if study.higher_is_better else 2
    return "-" if isnan(value) else f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # no -0.00


def _interval(c: Comparison, study: Study) -> str:
    if isnan(c.ci_low):
        return "-"
    return f"{_number(c.ci_low, study, sign='+')} to {_number(c.ci_high, study, sign='+')}"


def _p(p: float) -> str:
    return "-" if isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _aligned(table: Table) -> list[str]:
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def _piped(table: Table) -> list[str]:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
