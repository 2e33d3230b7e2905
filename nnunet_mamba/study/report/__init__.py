"""Reports on trained networks: a page about one method, or about a study with several."""

from nnunet_mamba.study.report.content import ReportRequest, Stage, StudyReport, collect_study_report
from nnunet_mamba.study.report.page import build_document, write_study_report

__all__ = [
    "ReportRequest",
    "Stage",
    "StudyReport",
    "build_document",
    "collect_study_report",
    "write_study_report",
]
