"""Comparison of methods on the same cases, from the tidy table alone."""

from nnunet_mamba.statistics.compare import Comparison, MethodSummary, Study, compare
from nnunet_mamba.statistics.ranking import Place, Ranking

__all__ = ["Comparison", "MethodSummary", "Place", "Ranking", "Study", "compare"]
