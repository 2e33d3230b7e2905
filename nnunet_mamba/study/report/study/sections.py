"""The sections of the page, in order of reading; one without content is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnunet_mamba.study.evaluation import PROTOCOLS
from nnunet_mamba.study.report.content import PREDICTION_COLOUR, REFERENCE_COLOUR
from nnunet_mamba.study.report.document import (
    Block,
    Code,
    Document,
    Figure,
    Folded,
    Key,
    Outlines,
    Points,
    Section,
    Table,
    Text,
)
from nnunet_mamba.study.report.study import charts, tables
from nnunet_mamba.study.report.study.content import StudyReport, folds_told, listed, metric_name, titled
from nnunet_mamba.study.report.study.files import confusion
from nnunet_mamba.study.report.study.pictures import worst_cases
from nnunet_mamba.study.report.study.published import differences
from nnunet_mamba.study.statistics import DatasetComparison
from nnunet_mamba.study.statistics.results import TWIN

MAX_CONFUSED = 20  # labels; more make no readable table


def document_of(report: StudyReport) -> Document:
    """Everything, figures drawn and files read."""
    sections = [
        Section("", _head(report)),
        Section("Results", _results(report)),
        Section("Differences", _differences(report)),
        Section("Labels", _labels(report)),
        Section("Beside the papers", _papers(report)),
        Section("Training", _training(report)),
        Section("Worst cases", _worst(report)),
        Section("Confusion of labels", _confusion(report)),
        Section("Made from", _provenance(report)),
    ]
    return Document(_title(report), [section for section in sections if section.blocks])


def _title(report: StudyReport) -> str:
    n = len(report.methods)
    who = f"{n} methods" if n > 1 else next(iter(report.methods.values())).trainer
    return f"{who} on {report.dataset or 'a dataset'}"


def _head(report: StudyReport) -> list[Block]:
    study = report.leading
    facts = [
        ("cases", str(study.n_cases)),
        *([("patients", str(study.n_patients))] if study.n_patients < study.n_cases else []),
        ("labels", str(len(study.labels))),
        ("folds", folds_told(report.ours.folds) or "not known"),
        ("protocol", study.protocol or "not stated"),
    ]
    blocks: list[Block] = [Text(report.note, warns=True)] if report.note else []
    return [*blocks, Points(_findings(report)), Key(facts)]


def _findings(report: StudyReport) -> list[str]:
    """The answers to the questions asked first, as plainly if they are no."""
    study, metric = report.leading, titled(report.leading)
    said = []
    for against in charts.families(study):
        for c in (c for c in study.comparisons if c.against == against and c.label == "case mean"):
            other = f"its twin without SSM ({c.other})" if against == TWIN else c.other
            words = {
                "better": f"{c.method} is better than {other}",
                "worse": f"{c.method} is worse than {other}",
                "not better": f"{c.method} is not shown to differ from {other}",
                "mixed": f"{c.method} and {other} differ, but ranks and mean disagree on the direction",
                "too few pairs": f"{c.method} and {other}: {c.n_pairs} pairs are too few for a test",
            }[c.verdict]
            value = f"{metric} {tables.signed(c.difference, study)}, 95 % CI {tables.interval(c, study)}"
            doubt = c.verdict in ("better", "worse") and c.ci_low <= 0 <= c.ci_high
            said.append(f"{words}: {value}{', though its interval includes 0' if doubt else ''}.")
    return said


def _results(report: StudyReport) -> list[Block]:
    study = report.leading
    rule = PROTOCOLS[study.protocol].difference if study.protocol in PROTOCOLS else ""
    blocks: list[Block] = [tables.summary_table(report)]
    blocks += [
        Figure(
            charts.case_means_chart(report, each),
            f"{titled(each)} of every case by method",
        )
        for each in report.studies
    ]
    notes = [
        "A case counts by its mean over labels. ± is the SD over the means of the folds, where there are "
        "several. Bold: the best, if every test it took part in is in its favour after Holm's correction.",
        "Charts: dots are cases, the box holds the middle half with the median, diamonds are fold means. "
        "Hollow: without SSM. Arrows: cases beyond the axis.",
    ]
    if any(table.metric == study.metric for table in report.published):
        notes.append("Papers' numbers mostly cannot be compared: what differs is told below, by number.")
    notes += [f"Protocol {study.protocol}: {rule}"] if rule else []
    warned = [Text(f"Warning: {text}.", warns=True) for text in study.warnings]
    return [*warned, *blocks, Points(notes)]


def _differences(report: StudyReport) -> list[Block]:
    study = report.leading
    blocks = _tests(report, study)
    resampled = "patients" if study.n_patients < study.n_cases else "cases"
    note = (
        f"Differences are means over cases, with BCa bootstrap intervals over {resampled} "
        f"({study.n_bootstrap} resamples, seed {study.seed}); p by Wilcoxon's signed rank test, corrected by "
        f"Holm within a table; significant below {study.alpha:g}. Intervals hold for the models as trained: "
        "what another seed would change is not in them. A difference below the SD over folds may be noise."
    )
    others = [Folded(titled(each), _tests(report, each)) for each in report.studies[1:]]
    ranked = [Folded("Rankings", [tables.ranking_table(study)])] if study.rankings else []
    return [*blocks, Text(note), *others, *ranked] if blocks else []


def _tests(report: StudyReport, study: DatasetComparison) -> list[Block]:
    """Of case means by one metric: the tables, then the charts."""
    families = charts.families(study)
    return [
        *(tables.comparison_table(study, against) for against in families),
        *(
            Figure(
                charts.differences_chart(report, study, against),
                f"{titled(study)}: each case's difference, and its mean with 95 % CI; {against}",
            )
            for against in families
        ),
    ]


def _labels(report: StudyReport) -> list[Block]:
    if len(report.leading.labels) < 2:
        return []
    blocks: list[Block] = [tables.label_table(report, report.leading)]
    blocks.append(
        Figure(
            charts.labels_chart(report, report.leading),
            f"{titled(report.leading)} of every case by label and method",
        )
    )
    blocks += [
        Figure(
            charts.label_differences_chart(report, report.leading, against),
            f"Differences by label, {against}",
        )
        for against in charts.families(report.leading)
    ]
    blocks.append(
        Text(
            "Means over the cases where a label is defined. Filled marks and bold: significant after Holm's "
            "correction over the tests of all labels."
        )
    )
    blocks += [
        Folded(f"{titled(study)} by label", [tables.label_table(report, study)])
        for study in report.studies[1:]
    ]
    return blocks


def _papers(report: StudyReport) -> list[Block]:
    if not report.published:
        return []
    beside = tables.paper_table(report)
    sources = []
    for i, table in enumerate(report.published, start=1):
        reasons = differences(table, report.ours)
        verdict = (
            f"Not comparable: {'; '.join(reasons)}."
            if reasons
            else "Same rules and number of cases; whether they are the same cases is not known here."
        )
        training = table.training[0].upper() + table.training[1:]
        what = f"{metric_name(table.metric)}; {table.cases}"
        sources.append(f"[{i}] {table.source}. {what}. {training}. {verdict}")
    forbidden = [t for t in report.published if differences(t, report.ours)]
    warning = (
        "None of these papers' numbers was made as the numbers here were; none can be compared with them."
        if len(forbidden) == len(report.published)
        else "Papers' numbers were made by others and mostly by other rules; below, each says whether it "
        "can be compared."
    )
    blocks: list[Block] = [Text(warning, warns=True)]
    if beside.rows:
        blocks += [beside, Text("Here: the mean over labels of the means over cases, as papers have it.")]
    blocks += [Folded("by label", [each]) for each in tables.paper_label_tables(report)]
    whole = [tables.whole_paper_table(i, table) for i, table in enumerate(report.published, start=1)]
    return [*blocks, Points(sources), Folded("all networks of these papers", whole)]


def _training(report: StudyReport) -> list[Block]:
    if not any(report.trainings_of(method) for method in report.methods.values()):
        return []
    blocks: list[Block] = [
        tables.training_table(report),
        Figure(
            charts.curves_chart(report, lambda curves: curves.smooth_dice, "pseudo Dice, moving average"),
            "Pseudo Dice by epoch, a line per fold",
        ),
        Figure(
            charts.curves_chart(report, lambda curves: curves.validation_loss, "validation loss"),
            "Validation loss by epoch, a line per fold",
        ),
    ]
    hours = tables.hours_of(report)
    if len(hours) > 1:
        title = f"{titled(report.leading)} against training time"
        blocks.append(Figure(charts.cost_chart(report, hours), title))
    note = (
        "A line per fold, dotted: without SSM. Pseudo Dice is nnU-Net's, of random patches of the "
        "validation cases. Hours are the sum of the epochs' times; compare them on one machine only. "
        "nnU-Net's logs hold no memory; the command estimate tells it."
    )
    return [*blocks, Text(note)]


def _worst(report: StudyReport) -> list[Block]:
    pictures = worst_cases(report)
    if not pictures:
        return []
    colours = (("reference", REFERENCE_COLOUR), ("prediction", PREDICTION_COLOUR))
    return [Text("The worst case of each method, where its labels show most."), Outlines(colours), *pictures]


def _confusion(report: StudyReport) -> list[Block]:
    files = report.files
    if files is None or not 2 < len(files.names) <= MAX_CONFUSED:
        return []
    found: list[tuple[str, Table, int]] = []
    for name, method in report.methods.items():
        if files.maps.get(method):
            voxels, n_cases = confusion(files.maps[method].values(), list(files.names))
            found.append((name, tables.confusion_table(voxels, list(files.names.values())), n_cases))
    if not found:
        return []
    note = (
        "Of the reference's voxels of a label (row), the percentage predicted as each label (column), over "
    )
    counts = listed(dict.fromkeys(str(n) for _, _, n in found))
    first, *others = (replace(table, title=name) for name, table, _ in found)
    return [
        Text(f"{note}{counts} cases of each method."),
        first,
        *(Folded(table.title, [replace(table, title="")]) for table in others),
    ]


def _provenance(report: StudyReport) -> list[Block]:
    programs = dict.fromkeys(f"{s.backend} {s.version}".strip() for s in report.scores)
    seeds = f"resamples: {report.leading.seed}; nnU-Net's trainings are not seeded"
    rows: Sequence[Sequence[str]] = [
        ("scores computed by", listed(filter(None, programs)) or "not stated"),
        ("seeds", seeds),
        *report.versions,
    ]
    files = [(t.name, str(t.n_rows), t.sha256[:16]) for t in report.tables]
    full = [(m.method, m.full_name, folds_told(m.fold_means) or "–") for m in report.leading.methods]
    blocks: list[Block] = [
        Code(report.command),
        Table(("table", "rows", "SHA-256 (first 16)"), files),
        Table(("method", "trainer__plans__configuration", "folds"), full, n_text=3),
    ]
    facts = tables.facts_table(report)
    blocks += [facts] if facts.rows else []
    blocks.append(Table(("", ""), rows, n_text=2))
    if report.left_out:
        blocks += [Text("Not shown here:"), Points(report.left_out)]
    return blocks
