"""One rule for half precision: sequence mixers work in float32, and what leaves them fits into float16."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FLOAT16_LIMIT = 65504.0 / 16  # the largest float16, with room for the sum in the convolution that follows


def in_float32(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Decorate forward(self, x): half-precision x is raised to float32, autocast is off inside, y comes back
    as x was.

    Where the surroundings compute in float16 (x is, or autocast is set to), y is held within FLOAT16_LIMIT:
    the un-normalised output of a scan is known to exceed float16, and one infinity makes the loss NaN for
    good (bowang-lab/U-Mamba issue 8). In float32, float64 and bfloat16 nothing is changed.
    """

    @wraps(forward)
    def wrapped(self: Any, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.amp.is_autocast_available(device):  # such as "meta"
            return forward(self, x)
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        limited = x.dtype == torch.float16 or autocast
        with torch.autocast(device, enabled=False):
            y = forward(self, x.float() if x.dtype in HALF else x)
        return (y.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT) if limited else y).to(x.dtype)

    return wrapped
