"""Sections of the report on a study, in order of reading; empty ones are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.study.evaluation import PROTOCOLS
from nnunet_mamba.study.report import charts, tables
from nnunet_mamba.study.report.content import (
    StudyReport,
    find_families,
    format_folds,
    format_metric,
    get_metric_name,
    state_findings,
)
from nnunet_mamba.study.report.document import (
    Block,
    BulletList,
    Chart,
    CodeBlock,
    Collapsible,
    Document,
    KeyNumbers,
    OutlineLegend,
    Paragraph,
    ReportTable,
    Section,
)
from nnunet_mamba.study.report.files import count_confusion
from nnunet_mamba.study.report.html import render_html
from nnunet_mamba.study.report.markdown import render_markdown
from nnunet_mamba.study.report.published import find_differences
from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR, render_worst_cases
from nnunet_mamba.study.statistics import DatasetComparison

MAX_CONFUSED = 20  # labels in a readable table of confusions


def write_study_report(report: StudyReport, out: Path) -> list[Path]:
    """Write report.html and report.md into the folder `out`, each whole or not at all."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder for report.html and report.md.")
    document = build_document(report)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "report.html", out / "report.md"]
    for file, text in zip(files, (render_html(document), render_markdown(document)), strict=True):
        write_text(file, text)
    return files


def build_document(report: StudyReport) -> Document:
    """Return all sections, with charts drawn and images and label maps read."""
    sections = [
        Section("", _build_head(report)),
        Section("Results", _build_results(report)),
        Section("Differences", _build_differences(report)),
        Section("Labels", _build_labels(report)),
        Section("Beside the papers", _build_papers(report)),
        Section("Training", _build_training(report)),
        Section("Worst cases", _build_worst_cases(report)),
        Section("Confusion of labels", _build_confusion(report)),
        Section("Made from", _build_provenance(report)),
    ]
    return Document(_build_title(report), [section for section in sections if section.blocks])


def _build_title(report: StudyReport) -> str:
    n = len(report.methods)
    subject = f"{n} methods" if n > 1 else next(iter(report.methods.values())).trainer
    return f"{subject} on {report.dataset or 'a dataset'}"


def _build_head(report: StudyReport) -> list[Block]:
    study = report.leading
    facts = [
        ("cases", str(study.n_cases)),
        *([("patients", str(study.n_patients))] if study.n_patients < study.n_cases else []),
        ("labels", str(len(study.labels))),
        ("folds", format_folds(report.setup.folds) or "not known"),
        ("protocol", study.protocol or "not stated"),
    ]
    blocks: list[Block] = [Paragraph(report.note, is_warning=True)] if report.note else []
    return [*blocks, BulletList(state_findings(report)), KeyNumbers(facts)]


def _build_results(report: StudyReport) -> list[Block]:
    study = report.leading
    rule = PROTOCOLS[study.protocol].difference if study.protocol in PROTOCOLS else ""
    blocks: list[Block] = [tables.build_summary_table(report)]
    blocks += [
        Chart(charts.plot_case_means(report, each), f"{format_metric(each)} of every case by method")
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
    warnings = [Paragraph(f"Warning: {text}.", is_warning=True) for text in study.warnings]
    return [*warnings, *blocks, BulletList(notes)]


def _build_differences(report: StudyReport) -> list[Block]:
    study = report.leading
    blocks = _build_tests(report, study)
    resampled = "patients" if study.n_patients < study.n_cases else "cases"
    note = (
        f"Differences are means over cases, with BCa bootstrap intervals over {resampled} "
        f"({study.n_bootstrap} resamples, seed {study.seed}); p by Wilcoxon's signed rank test, corrected by "
        f"Holm within a table; significant below {study.alpha:g}. Intervals hold for the models as trained: "
        "what another seed would change is not in them. A difference below the SD over folds may be noise."
    )
    others = [Collapsible(format_metric(each), _build_tests(report, each)) for each in report.studies[1:]]
    ranked = [Collapsible("Rankings", [tables.build_ranking_table(study)])] if study.rankings else []
    return [*blocks, Paragraph(note), *others, *ranked] if blocks else []


def _build_tests(report: StudyReport, study: DatasetComparison) -> list[Block]:
    """Return the tests of case means by one metric: the tables, then the charts."""
    families = find_families(study)
    return [
        *(tables.build_comparison_table(study, against) for against in families),
        *(
            Chart(
                charts.plot_differences(report, study, against),
                f"{format_metric(study)}: each case's difference, and its mean with 95 % CI; {against}",
            )
            for against in families
        ),
    ]


def _build_labels(report: StudyReport) -> list[Block]:
    study = report.leading
    if len(study.labels) < 2:
        return []
    alt = f"{format_metric(study)} of every case by label and method"
    blocks: list[Block] = [
        tables.build_label_table(report, study),
        Chart(charts.plot_labels(report, study), alt),
    ]
    blocks += [
        Chart(charts.plot_label_differences(report, study, against), f"Differences by label, {against}")
        for against in find_families(study)
    ]
    blocks.append(
        Paragraph(
            "Means over the cases where a label is defined. Filled marks and bold: significant after Holm's "
            "correction over the tests of all labels."
        )
    )
    blocks += [
        Collapsible(f"{format_metric(other)} by label", [tables.build_label_table(report, other)])
        for other in report.studies[1:]
    ]
    return blocks


def _build_papers(report: StudyReport) -> list[Block]:
    if not report.published:
        return []
    beside = tables.build_paper_table(report)
    sources = []
    for i, table in enumerate(report.published, start=1):
        reasons = find_differences(table, report.setup)
        verdict = (
            f"Not comparable: {'; '.join(reasons)}."
            if reasons
            else "Same rules and number of cases; whether they are the same cases is not known here."
        )
        training = table.training[0].upper() + table.training[1:]
        what = f"{get_metric_name(table.metric)}; {table.cases}"
        sources.append(f"[{i}] {table.source}. {what}. {training}. {verdict}")
    differing = [table for table in report.published if find_differences(table, report.setup)]
    warning = (
        "None of these papers' numbers was made as the numbers here were; none can be compared with them."
        if len(differing) == len(report.published)
        else "Papers' numbers were made by others and mostly by other rules; below, each says whether it "
        "can be compared."
    )
    blocks: list[Block] = [Paragraph(warning, is_warning=True)]
    if beside.rows:
        blocks += [
            beside,
            Paragraph("Here: the mean over labels of the means over cases, as papers have it."),
        ]
    blocks += [Collapsible("by label", [each]) for each in tables.build_paper_label_tables(report)]
    whole = [tables.build_full_paper_table(i, table) for i, table in enumerate(report.published, start=1)]
    return [*blocks, BulletList(sources), Collapsible("all networks of these papers", whole)]


def _build_training(report: StudyReport) -> list[Block]:
    if not any(report.select_runs(method) for method in report.methods.values()):
        return []
    blocks: list[Block] = [
        tables.build_training_table(report),
        Chart(
            charts.plot_curves(report, lambda curves: curves.smooth_dice, "pseudo Dice, moving average"),
            "Pseudo Dice by epoch, a line per fold",
        ),
        Chart(
            charts.plot_curves(report, lambda curves: curves.validation_loss, "validation loss"),
            "Validation loss by epoch, a line per fold",
        ),
    ]
    hours = tables.compute_hours(report)
    if len(hours) > 1:
        title = f"{format_metric(report.leading)} against training time"
        blocks.append(Chart(charts.plot_cost(report, hours), title))
    note = (
        "A line per fold, dotted: without SSM. Pseudo Dice is nnU-Net's, of random patches of the "
        "validation cases. Hours are the sum of the epochs' times; compare them on one machine only. "
        "nnU-Net's logs hold no memory; the command estimate tells it."
    )
    return [*blocks, Paragraph(note)]


def _build_worst_cases(report: StudyReport) -> list[Block]:
    pictures = render_worst_cases(report)
    if not pictures:
        return []
    colours = (("reference", REFERENCE_COLOUR), ("prediction", PREDICTION_COLOUR))
    return [
        Paragraph("The worst case of each method, where its labels show most."),
        OutlineLegend(colours),
        *pictures,
    ]


def _build_confusion(report: StudyReport) -> list[Block]:
    files = report.files
    if files is None or not 2 < len(files.names) <= MAX_CONFUSED:
        return []
    found: list[tuple[str, ReportTable, int]] = []
    for name, method in report.methods.items():
        if files.maps.get(method):
            voxels, n_cases = count_confusion(files.maps[method].values(), list(files.names))
            found.append((name, tables.build_confusion_table(voxels, list(files.names.values())), n_cases))
    if not found:
        return []
    note = (
        "Of the reference's voxels of a label (row), the percentage predicted as each label (column), over "
    )
    counts = ", ".join(dict.fromkeys(str(n) for _, _, n in found))
    first, *others = (replace(table, title=name) for name, table, _ in found)
    return [
        Paragraph(f"{note}{counts} cases of each method."),
        first,
        *(Collapsible(table.title, [replace(table, title="")]) for table in others),
    ]


def _build_provenance(report: StudyReport) -> list[Block]:
    programs = dict.fromkeys(f"{s.backend} {s.version}".strip() for s in report.scores)
    seeds = f"resamples: {report.leading.seed}; nnU-Net's trainings are not seeded"
    rows: Sequence[Sequence[str]] = [
        ("scores computed by", ", ".join(filter(None, programs)) or "not stated"),
        ("seeds", seeds),
        *report.versions,
    ]
    files = [(t.name, str(t.n_rows), t.sha256[:16]) for t in report.tables]
    full = [(m.method, m.full_name, format_folds(m.fold_means) or "–") for m in report.leading.methods]
    blocks: list[Block] = [
        CodeBlock(report.command),
        ReportTable(("table", "rows", "SHA-256 (first 16)"), files),
        ReportTable(("method", "trainer__plans__configuration", "folds"), full, n_text=3),
    ]
    facts = tables.build_facts_table(report)
    blocks += [facts] if facts.rows else []
    blocks.append(ReportTable(("", ""), rows, n_text=2))
    if report.left_out:
        blocks += [Paragraph("Not shown here:"), BulletList(report.left_out)]
    return blocks
