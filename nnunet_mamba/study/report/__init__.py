"""One page and one picture about a trained network; a page about a study of several methods."""

from nnunet_mamba.study.report.collect import Request, gather
from nnunet_mamba.study.report.curves import Curves, read_curves
from nnunet_mamba.study.report.quickstart_content import CaseFiles, Report, Stage
from nnunet_mamba.study.report.quickstart_figure import write_picture
from nnunet_mamba.study.report.quickstart_page import write_page
from nnunet_mamba.study.report.sections import document_of
from nnunet_mamba.study.report.write import write_study

__all__ = [
    "CaseFiles",
    "Curves",
    "Report",
    "Request",
    "Stage",
    "document_of",
    "gather",
    "read_curves",
    "write_page",
    "write_picture",
    "write_study",
]
