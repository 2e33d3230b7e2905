"""Prediction with nnU-Net's models: mirrored copies and tiles in batches, labels in one pass."""

from nnunet_mamba.inference.cases import Case, CasePredictor, find_cases
from nnunet_mamba.inference.members import MembersPredictor
from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.inference.validation import batched_validation

__all__ = [
    "BatchedPredictor",
    "Case",
    "CasePredictor",
    "MembersPredictor",
    "batched_validation",
    "find_cases",
]
