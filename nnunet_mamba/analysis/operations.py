"""Operations of a network: the multiply-adds of a forward pass, counted from shapes alone.

A multiply-add is a product, with the addition that follows if there is one. Counted are convolutions, matrix
products and attention, by torch's formulas, and the operators of this package by what defines them, however
a backend computes them. Per token and direction, for d channels, n states and w taps, h heads of p values:

    selective scan      h = exp(delta A) h + (delta u) B, y = sum C h + D u:  d (4 n + 2)
                        or, without D, d (4 n + 1); d for the gate of all directions, y silu(z)
    causal convolution  d w
    linear attention    S = exp(log_decay) S + v k^T, y = S q:  3 h p n

As is usual, all else counts nothing: norms, activations, exponentials, softmax, interpolation, other
products element by element. Zeros count: at the borders of convolutions, and those that pad a projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_mamba.ops import custom_ops
from nnunet_mamba.ops.backends import force_backend

FLOPS = 2  # of a multiply-add, in torch's formulas
Shape = Sequence[int]


def count_multiply_adds(network: nn.Module, channels: int, grid: Sequence[int]) -> int:
    """Return the multiply-adds of `network`, on torch's meta device, for one input (1, channels, *grid)."""
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.no_grad(), force_backend("numba"), counter:  # a backend whose operators are all this package's
        network(torch.empty(1, channels, *grid, device="meta"))
    return int(counter.get_total_flops()) // FLOPS


def scan_flops(
    u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: Shape | None, z: Shape | None, *_: Any, **__: Any
) -> int:
    """Return the FLOPs of `custom_ops.scan`: delta (k, b, l, d), A (k, d, n)."""
    (directions, *sequence), n_states = delta, A[-1]
    of_direction = 4 * n_states + 1 + (D is not None)
    return FLOPS * math.prod(sequence) * (directions * of_direction + (z is not None))


def conv_flops(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Return the FLOPs of `custom_ops.conv`: x (., b, l, d), weight (k, d, w)."""
    directions, _channels, taps = weight
    return FLOPS * directions * math.prod(x[1:]) * taps


def attention_flops(values: Shape, log_decay: Shape, keys: Shape, *_: Any, **__: Any) -> int:
    """Return the FLOPs of `custom_ops.linear_attention`: values (., b, l, h, p), keys (k, b, l, g, n)."""
    return FLOPS * 3 * math.prod(values[1:]) * keys[0] * keys[-1]


FORMULAS = {
    custom_ops.scan.overloadpacket: scan_flops,
    custom_ops.conv.overloadpacket: conv_flops,
    custom_ops.linear_attention.overloadpacket: attention_flops,
}
