"""nnU-Net's prediction with mirrored copies and tiles in batches; all else is nnU-Net's own."""

from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.inference.stand_in import batched_validation, run_nnunets_predict

__all__ = ["BatchedPredictor", "batched_validation", "run_nnunets_predict"]
