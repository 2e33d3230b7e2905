"""One page and one picture about a trained network: overlays, learning curves, scores, what was run."""

from nnunet_mamba.study.report.content import CaseFiles, Report, Stage
from nnunet_mamba.study.report.curves import Curves, read_curves
from nnunet_mamba.study.report.page import write_page
from nnunet_mamba.study.report.picture import write_picture

__all__ = ["CaseFiles", "Curves", "Report", "Stage", "read_curves", "write_page", "write_picture"]
