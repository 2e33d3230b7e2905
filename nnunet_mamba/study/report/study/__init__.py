"""A page about a study: several methods on one dataset, from their tables of scores."""

from nnunet_mamba.study.report.study.gather import Request, gather
from nnunet_mamba.study.report.study.sections import document_of
from nnunet_mamba.study.report.study.write import write_study

__all__ = ["Request", "document_of", "gather", "write_study"]
