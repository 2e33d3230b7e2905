"""What half precision may do to a sequence mixer: how much of it is computed in float32, and what leaves it
fits into float16."""

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
    """One whose `mixer_precision` says what it computes in float32:

    float32     all of it, whatever surrounds it
    mixed       the recurrence and all sums; under autocast, projections, the convolution before the scan and
                what is stored between them are in autocast's half precision. Scans, which are not
                normalised, and what is added to them before a norm are held within float16
    """

    mixer_precision = FLOAT32


def set_mixer_precision(network: nn.Module, precision: str | None) -> None:
    """Of all its mixers; None leaves each its own. ValueError for an unknown word."""
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise ValueError(
            f"mixer_precision is {precision!r}; choose one of {', '.join(map(repr, PRECISIONS))}."
        )
    for module in network.modules():
        if isinstance(module, SequenceMixer):
            module.mixer_precision = precision


def computed_dtype(tensor: Tensor) -> torch.dtype:
    """Of a matrix product with the tensor here: its own, or autocast's."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def within_float16(tensor: Tensor) -> Tensor:
    """The tensor, infinities of a float16 one replaced by its largest number: a product with zero, or a
    difference of two, would be NaN for good. NaN stays."""
    return tensor.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16) if tensor.dtype == torch.float16 else tensor


def of_a_mixer(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Decorate a `SequenceMixer`'s forward(self, x): y, computed as `mixer_precision` says, comes as x was.

    Where the surroundings compute in float16 (x is, or autocast is set to), y is held within FLOAT16_LIMIT:
    the un-normalised output of a scan is known to exceed float16, and one infinity makes the loss NaN for
    good (bowang-lab/U-Mamba issue 8). In float32, float64 and bfloat16 nothing is changed.
    """

    @wraps(forward)
    def wrapped(self: Any, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.amp.is_autocast_available(device):  # such as "meta"
            return forward(self, x)
        limited = torch.float16 in (x.dtype, computed_dtype(x))
        if self.mixer_precision == MIXED:
            y = forward(self, x)
        else:
            with torch.autocast(device, enabled=False):
                y = forward(self, x.float() if x.dtype in HALF else x)
        return (y.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT) if limited else y).to(x.dtype)

    return wrapped
