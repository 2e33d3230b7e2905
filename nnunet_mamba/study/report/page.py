"""Report on one method or several: its head, its sections in order of reading, what it was made from."""

from __future__ import annotations

import shlex
from pathlib import Path

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.document import (
    Block,
    BulletList,
    CodeBlock,
    Document,
    KeyNumbers,
    Paragraph,
    Section,
    render_markdown,
)
from nnunet_mamba.io.tables import Table
from nnunet_mamba.nnunet.console import format_duration
from nnunet_mamba.study.evaluation import compute_foreground_mean
from nnunet_mamba.study.report import sections, study_tables
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.render import render_html
from nnunet_mamba.study.report.summary_figure import render_summary
from nnunet_mamba.study.statistics.formats import DASH, format_folds, format_value
from nnunet_mamba.study.statistics.result_tables import state_verdicts


def write_study_report(report: StudyReport, out: Path) -> list[Path]:
    """Write report.html and report.md into the folder `out`; of one method with images also report.png.

    All are made before the first is written, each whole or not at all; a picture of an earlier report goes.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder for report.html and report.md.")
    document = build_document(report)
    contents = {
        "report.html": render_html(document).encode(),
        "report.md": render_markdown(document).encode(),
        "report.png": render_summary(report),
    }
    for name, content in contents.items():
        if content is None:
            (out / name).unlink(missing_ok=True)
            continue
        with atomic_write(out / name) as draft:
            draft.write_bytes(content)
    return [out / name for name, content in contents.items() if content]


def build_document(report: StudyReport) -> Document:
    """Return all sections, with charts drawn and images and label maps read."""
    built = [
        Section("", _build_head(report)),
        Section(
            "Results", sections.build_scores(report) if report.single else sections.build_results(report)
        ),
        Section("Differences", sections.build_differences(report)),
        Section("Labels", [] if report.single else sections.build_labels(report)),
        Section("Beside the papers", sections.build_papers(report)),
        Section("Cases" if report.single else "Worst cases", sections.build_cases(report)),
        Section("Training", sections.build_training(report)),
        Section("Confusion of labels", sections.build_confusion(report)),
        Section("Time", _build_time(report)),
        Section("Commands", _build_commands(report)),
        Section("Made from", _build_provenance(report)),
    ]
    return Document(report.title, [section for section in built if section.blocks])


def _build_head(report: StudyReport) -> list[Block]:
    result, numbers, is_test = report.leading, list[tuple[str, str]](), report.setup.split == "test"
    if report.single:
        for each in report.comparisons:
            mean = compute_foreground_mean(report.scores, each.metric)
            numbers.append((f"mean foreground {each.metric_title}", format_value(mean, each.metric)))
    numbers += [
        ("unseen cases" if is_test else "cases", str(result.n_cases)),
        *([("patients", str(result.n_patients))] if result.n_patients < result.n_cases else []),
        *([("time in all", format_duration(report.seconds))] if report.request.stages else []),
        *report.request.facts[:3],
        ("labels", str(len(result.labels))),
        *([] if is_test else [("folds", format_folds(report.setup.folds) or "not known")]),
        ("protocol", result.protocol or "not stated"),
    ]
    note, verdicts = report.request.note, state_verdicts(result)
    return [
        *([Paragraph(note, is_warning=True)] if note else []),
        *([BulletList(verdicts)] if verdicts else []),
        KeyNumbers(numbers),
    ]


def _build_time(report: StudyReport) -> list[Block]:
    stages = report.request.stages
    rows = [(stage.name, format_duration(stage.seconds)) for stage in stages]
    total = ("in all", format_duration(report.seconds))
    return [Table(("stage", "time"), [*rows, total])] if stages else []


def _build_commands(report: StudyReport) -> list[Block]:
    exports = []
    for variable in report.request.variables:
        name, _, value = variable.partition("=")
        exports.append(f"export {name}={shlex.quote(value)}")
    lines = [*exports, *(command for stage in report.request.stages for command in stage.commands)]
    return (
        [Paragraph("In a shell, from the raw dataset on, this gives the same:"), CodeBlock("\n".join(lines))]
        if lines
        else []
    )


def _build_provenance(report: StudyReport) -> list[Block]:
    programs = dict.fromkeys(f"{s.backend} {s.version}".strip() for s in report.scores)
    rows = [
        ("scores computed by", ", ".join(filter(None, programs)) or "not stated"),
        ("seed of resamples", str(report.leading.seed)),
        ("seeds of trainings", report.note_on_seeds or "not stated"),
        *report.versions,
    ]
    files = [(name, str(n_rows), digest[:16]) for name, n_rows, digest in report.tables]
    full = [(m.method, m.full_name, format_folds(m.fold_means) or DASH) for m in report.leading.methods]
    default = shlex.join(["nnunet-mamba", "report", *map(str, report.request.tables)])
    facts = study_tables.build_facts_table(report)
    blocks: list[Block] = [
        CodeBlock(report.request.command or default),
        Table(("table", "rows", "SHA-256 (first 16)"), files),
        Table(("method", "trainer__plans__configuration", "folds"), full, n_text=3),
        *([facts] if facts.rows else []),
        Table(("", ""), rows, n_text=2),
    ]
    if report.left_out:
        blocks += [Paragraph("Not shown here:"), BulletList(report.left_out)]
    return blocks
