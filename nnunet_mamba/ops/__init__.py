"""Selective scan, linear attention and causal convolution on several backends, independent of images and of
nnU-Net."""

from nnunet_mamba.ops.backends import available_backends
from nnunet_mamba.ops.linear_attention import linear_attention, multi_directional_linear_attention
from nnunet_mamba.ops.scan import (
    causal_conv1d,
    multi_directional_conv1d,
    multi_directional_scan,
    selective_scan,
)

__all__ = [
    "available_backends",
    "causal_conv1d",
    "linear_attention",
    "multi_directional_conv1d",
    "multi_directional_linear_attention",
    "multi_directional_scan",
    "selective_scan",
]
