"""Comparison of methods on the same cases, from the tidy table alone."""

from nnunet_mamba.study.statistics.compare import compare
from nnunet_mamba.study.statistics.ranking import Place, Ranking
from nnunet_mamba.study.statistics.study import Comparison, MethodSummary, Study
from nnunet_mamba.study.statistics.text import as_markdown, as_text
from nnunet_mamba.study.statistics.write import write_studies

__all__ = [
    "Comparison",
    "MethodSummary",
    "Place",
    "Ranking",
    "Study",
    "as_markdown",
    "as_text",
    "compare",
    "write_studies",
]
