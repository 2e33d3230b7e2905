"""Comparison of methods on the same cases, from tables of scores alone."""

from nnunet_mamba.study.statistics.compare import compare
from nnunet_mamba.study.statistics.output import as_markdown, as_text, write_results
from nnunet_mamba.study.statistics.ranking import Place, Ranking
from nnunet_mamba.study.statistics.results import Comparison, DatasetComparison, MethodSummary

__all__ = [
    "Comparison",
    "DatasetComparison",
    "MethodSummary",
    "Place",
    "Ranking",
    "as_markdown",
    "as_text",
    "compare",
    "write_results",
]
