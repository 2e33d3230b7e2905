"""Instance and group norm for export to ONNX, as exact as torch's however many voxels there are.

onnxruntime's InstanceNormalization and ReduceMean sum voxel after voxel in float32: the more there are, the
more is lost, 1e-3 of the result for 128 x 128 x 128 voxels. Here means are taken axis by axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.inference.channels_last import replace_instance_norm


@contextmanager
def norms_by_axis() -> Iterator[None]:
    """Let modules compute instance and group norm by `normalize`."""
    instance_norm = replace_instance_norm(_instance_norm, is_taken=lambda *_: True)
    with patch.multiple(F, instance_norm=instance_norm, group_norm=group_norm):
        yield


def _instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return _scale(normalize(x, eps), weight, bias)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Compute torch's function of that name. Shape: (B, C, *grid) -> (B, C, *grid)"""
    groups = input.unflatten(1, (num_groups, -1))
    return _scale(normalize(groups, eps).flatten(1, 2), weight, bias)


def normalize(x: Tensor, eps: float) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps), over all axes but the first two."""
    centered = x - _mean(x)
    return centered * (_mean(centered.square()) + eps).rsqrt()


def _mean(x: Tensor) -> Tensor:
    for axis in range(x.ndim - 1, 1, -1):
        x = x.mean(axis, keepdim=True)
    return x


def _scale(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
