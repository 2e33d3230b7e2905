"""Scores of predicted label maps per case and label, in mm, defined for empty masks too."""

from nnunet_mamba.study.evaluation.labels import Label, select_scored_labels
from nnunet_mamba.study.evaluation.match import evaluate_folder
from nnunet_mamba.study.evaluation.metrics import METRICS, Metric
from nnunet_mamba.study.evaluation.protocols import PROTOCOLS
from nnunet_mamba.study.evaluation.table import (
    Origin,
    Score,
    Summary,
    average_seeds,
    compute_foreground_mean,
    read_method_table,
    read_table,
    summarise,
    write_table,
)

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Label",
    "Metric",
    "Origin",
    "Score",
    "Summary",
    "average_seeds",
    "compute_foreground_mean",
    "evaluate_folder",
    "read_method_table",
    "read_table",
    "select_scored_labels",
    "summarise",
    "write_table",
]
