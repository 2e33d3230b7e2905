"""Half precision in sequence mixers: what is computed in float32, and outputs that fit into float16."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
LARGEST_FLOAT16 = torch.finfo(torch.float16).max
FLOAT16_LIMIT = LARGEST_FLOAT16 / 16  # with room for the sum in the convolution that follows
FLOAT32, MIXED = "float32", "mixed"
PRECISIONS = (FLOAT32, MIXED)


class SequenceMixer(nn.Module):
    """Module whose `mixer_precision` says what it computes in float32:

    float32     all of it, whatever surrounds it
    mixed       the recurrence and all sums; under autocast, projections, the convolution before the scan and
                what is stored between them are in autocast's half precision. Outputs of scans, which are
                not normalised, and what is added to them before a norm are clamped to float16
    """

    mixer_precision = FLOAT32


def set_mixer_precision(network: nn.Module, precision: str | None) -> None:
    """Set the precision of all mixers of a network; None changes nothing. Raises ValueError for an unknown
    word."""
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise ValueError(
            f"mixer_precision is {precision!r}; choose one of {', '.join(map(repr, PRECISIONS))}."
        )
    for module in network.modules():
        if isinstance(module, SequenceMixer):
            module.mixer_precision = precision


def matmul_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of a matrix product with the tensor here: its own, or autocast's."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that scans and convolutions of the tensor sum in: float64 for float64, else
    float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def finest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple's GPUs, which lack it: sums of many logarithms lose digits
    there."""
    return torch.float32 if device.type == "mps" else torch.float64


def clamp_to_float16(tensor: Tensor) -> Tensor:
    """Replace infinities of a float16 tensor by its largest number; other dtypes and NaN stay.

    A product of an infinity with zero, or a difference of two, would be NaN from there on.
    """
    return tensor.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16) if tensor.dtype == torch.float16 else tensor


def clamp_for_matmul(tensor: Tensor) -> Tensor:
    """Clamp a tensor to float16's range if a matrix product with it is in float16 here (`matmul_dtype`)."""
    is_rounded = matmul_dtype(tensor) == torch.float16
    return tensor.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16) if is_rounded else tensor


def with_mixer_precision(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Decorate a `SequenceMixer`'s forward(self, x) -> y: compute as `mixer_precision` says, return x's
    dtype.

    Where x or autocast is float16, y is clamped to FLOAT16_LIMIT: the un-normalised output of a scan is known
    to exceed float16, and one infinity makes the loss NaN from there on (bowang-lab/U-Mamba issue 8). In
    float32, float64 and bfloat16 nothing is changed.
    """

    @wraps(forward)
    def wrapped(self: Any, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.amp.is_autocast_available(device):  # such as "meta"
            return forward(self, x)
        limited = torch.float16 in (x.dtype, matmul_dtype(x))
        if self.mixer_precision == MIXED:
            y = forward(self, x)
        else:
            with torch.autocast(device, enabled=False):
                y = forward(self, x.float() if x.dtype in HALF else x)
        return (y.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT) if limited else y).to(x.dtype)

    return wrapped
