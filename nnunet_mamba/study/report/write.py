"""The two files of a study: report.html and report.md."""

from __future__ import annotations

from pathlib import Path

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.html import as_html, as_markdown
from nnunet_mamba.study.report.sections import document_of


def write_study(report: StudyReport, out: Path) -> list[Path]:
    """Into the folder `out`; each file whole or not at all."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder for report.html and report.md.")
    document = document_of(report)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "report.html", out / "report.md"]
    for file, text in zip(files, (as_html(document), as_markdown(document)), strict=True):
        write_text(file, text)
    return files
