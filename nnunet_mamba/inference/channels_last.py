"""Faster convolutions and instance norms on the CPU, for any network, of which nothing is changed.

oneDNN's convolutions take a tensor as it is if its channels are last in memory; others are copied into a
layout of their own, and the result back. For nnU-Net's networks that alone is no gain, since torch's instance
norm, which has no such layout, makes more copies. Here the norm has it, too. Large 3x3x3 convolutions are
Winograd's, every other is oneDNN's: torch sends those of a single patch with few channels or few voxels to
an older, slower code.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nnunet_mamba.ops import numba_winograd
from nnunet_mamba.ops.numba_norm import LAYOUTS, instance_norm, to_channels_last

onednn_convolution = torch.ops.aten.mkldnn_convolution.default
MEASURED = ("x86_64", "AMD64")  # processors; elsewhere oneDNN may have no fast code for this layout


def channels_last(network: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context for a network's forward pass: `ChannelsLast` on the CPU, unless it was compiled."""
    has_it = torch.backends.mkldnn.is_available() and platform.machine() in MEASURED
    if device.type != "cpu" or not has_it:
        return nullcontext()
    is_compiled = any(hasattr(module, "_orig_mod") for module in network.modules())
    return nullcontext() if is_compiled else ChannelsLast()


class ChannelsLast(TorchFunctionMode):
    """Context in which 2D and 3D convolutions and instance norms in float32 on the CPU are faster.

    Results differ from torch's by rounding. Where gradients are recorded, torch's own operators run.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return FASTER.get(function, function)(*args, **(kwargs or {}))


def _is_taken(x: Tensor, *weights: Tensor | None) -> bool:
    """Return True for a batch of images and weights that the faster operators take."""
    tensors = [x, *(weight for weight in weights if weight is not None)]
    is_float32 = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return is_float32 and x.ndim in LAYOUTS and x.numel() > 0 and not torch.is_grad_enabled()


def _convolution(stock: Callable[..., Tensor], ndim: int) -> Callable[..., Tensor]:
    """Return a replacement of torch.conv2d or torch.conv3d, which takes `ndim` axes."""

    def convolve(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if input.ndim != ndim or isinstance(padding, str) or not _is_taken(input, weight, bias):
            return stock(input, weight, bias, stride, padding, dilation, groups)
        n_axes = ndim - 2
        per_axis = [_repeat(value, n_axes) for value in (padding, stride, dilation)]
        if groups == 1 and per_axis == [(1,) * n_axes] * 3 and numba_winograd.takes(input, weight):
            return numba_winograd.convolve(input, weight, bias)
        return onednn_convolution(to_channels_last(input), weight, bias, *per_axis, groups)

    return convolve


def _repeat(value: int | Sequence[int], n_axes: int) -> tuple[int, ...]:
    """Return one number per axis, of one for all axes or of as many as there are."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * n_axes if len(numbers) == 1 else numbers


def replace_instance_norm(
    compute: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor],
    is_taken: Callable[[Tensor, Tensor | None, Tensor | None], bool],
) -> Callable[..., Tensor]:
    """Return a replacement of torch's instance_norm.

    Args:
        compute: called with input, weight, bias and eps, in place of torch's.
        is_taken: called with input, weight and bias. Where it is false, and for running statistics, torch's
            runs.
    """
    stock = F.instance_norm

    def norm(
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if use_input_stats and is_taken(input, weight, bias):
            return compute(input, weight, bias, eps)
        return stock(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)

    return norm


def _has_voxels(x: Tensor, *weights: Tensor | None) -> bool:
    """Return True for images that the faster operators take, and that have a variance."""
    return _is_taken(x, *weights) and x[0, 0].numel() > 1


FASTER: dict[Any, Callable[..., Tensor]] = {
    torch.conv2d: _convolution(torch.conv2d, 4),
    torch.conv3d: _convolution(torch.conv3d, 5),
    F.instance_norm: replace_instance_norm(instance_norm, _has_voxels),
}
