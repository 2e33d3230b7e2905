"""Scores of predicted label maps: per case, per label, in mm, with the empty cases defined."""

from nnunet_mamba.study.evaluation.folders import evaluate_folder
from nnunet_mamba.study.evaluation.labels import Label, scored_labels
from nnunet_mamba.study.evaluation.metrics import METRICS
from nnunet_mamba.study.evaluation.protocols import PROTOCOLS
from nnunet_mamba.study.evaluation.table import (
    Origin,
    Score,
    Summary,
    mean_foreground,
    read_table,
    summarise,
    write_table,
)

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Label",
    "Origin",
    "Score",
    "Summary",
    "evaluate_folder",
    "mean_foreground",
    "read_table",
    "scored_labels",
    "summarise",
    "write_table",
]
