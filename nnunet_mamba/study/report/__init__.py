"""Reports on trained networks: of a study with several methods, and of one training by the quickstart."""

from nnunet_mamba.study.report.collect import ReportRequest, collect_study_report
from nnunet_mamba.study.report.files import CaseFiles
from nnunet_mamba.study.report.quickstart_content import QuickstartReport, Stage
from nnunet_mamba.study.report.quickstart_figure import write_quickstart_figure
from nnunet_mamba.study.report.quickstart_page import write_quickstart_page
from nnunet_mamba.study.report.sections import build_document, write_study_report
from nnunet_mamba.study.report.training_curves import TrainingCurves, read_curves

__all__ = [
    "CaseFiles",
    "QuickstartReport",
    "ReportRequest",
    "Stage",
    "TrainingCurves",
    "build_document",
    "collect_study_report",
    "read_curves",
    "write_quickstart_figure",
    "write_quickstart_page",
    "write_study_report",
]
