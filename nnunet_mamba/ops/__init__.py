"""The operations, and the one door to their backends. Nothing here knows of images or of nnU-Net."""

from nnunet_mamba.ops.backends import available_backends
from nnunet_mamba.ops.scan import causal_conv1d, causal_conv1d_walks, selective_scan, sum_of_scans

__all__ = ["available_backends", "causal_conv1d", "causal_conv1d_walks", "selective_scan", "sum_of_scans"]
