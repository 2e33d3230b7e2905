"""Prediction by nnU-Net's own code, with mirrored copies and tiles in batches."""

from nnunet_mamba.inference.patch import batched_validation, run_nnunet_predict
from nnunet_mamba.inference.predictor import BatchedPredictor

__all__ = ["BatchedPredictor", "batched_validation", "run_nnunet_predict"]
