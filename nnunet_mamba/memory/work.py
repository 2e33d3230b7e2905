"""What the operators of a training step have to do, in the units that a device's rates are measured in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Units of work; a profile knows the seconds of each.
CONV, CONV_TRAFFIC, DEPTHWISE, MATMUL = "conv_flop", "conv_byte", "depthwise_byte", "matmul_flop"
SCAN, CONV1D = "scan_element", "walk_element"
NORM_TRAFFIC, TRAFFIC, CALL = "norm_byte", "byte", "call"
GROUPS = {  # as a reader wants to see them
    "convolutions": (CONV, CONV_TRAFFIC, DEPTHWISE),
    "matrix products": (MATMUL,),
    "scans": (SCAN, CONV1D),
    "norms and all else": (NORM_TRAFFIC, TRAFFIC, CALL),
}
UNITS = tuple(unit for units in GROUPS.values() for unit in units)

ROW = 64  # channels that a CPU's scan takes through a step together, be they there or not
# A scan's backward pass takes so many times its forward pass: benchmarks/results/scan_cpu_1_thread.json.
# With rates of their own for the two, which always come together, a fit cannot tell them apart.
BACKWARD_SCANS = 2.1
aten = torch.ops.aten
CONVOLUTION, CONVOLUTION_BACKWARD = aten.convolution.default, aten.convolution_backward.default


def work_of(func: Any, args: tuple[Any, ...], result: Any, born: int) -> Counter[str]:
    """Unit -> amount, of one call of an operator, whose result takes `born` new bytes."""
    if not born and not func._schema.is_mutable:
        return Counter()  # a view
    own = OPERATORS.get(name_of(func), _other)
    return Counter(own(func, args, result)) + Counter({CALL: 1})


def name_of(func: Any) -> str:
    """Such as aten::add or nnunet_mamba::selective_scan."""
    return str(func._schema.name)


def nbytes(tensors: Any) -> int:
    """Of all tensors in a nest of lists, tuples and other things."""
    return sum(t.numel() * t.element_size() for t in tree_leaves(tensors) if isinstance(t, Tensor))


def _convolution(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    groups = args[9] if func is CONVOLUTION_BACKWARD else args[8]
    if groups > 1:  # bound by memory
        return {DEPTHWISE: nbytes((args[:3], result))}
    return {CONV: _flop(func, args, result), CONV_TRAFFIC: nbytes((args[:3], result))}


def _matmul(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    return {MATMUL: _flop(func, args, result), TRAFFIC: nbytes((args, result))}


def _flop(func: Any, args: tuple[Any, ...], result: Any) -> int:
    count: Callable[..., int] = flop_registry[func._overloadpacket]
    return int(count(*args, out_val=result))


def _scan(first: int, times: float) -> Callable[..., dict[str, int]]:
    """`first` is where delta (k, b, l, d) and then A (k, d, n) stand among the arguments."""

    def count(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
        (directions, batch, length, channels), n_states = args[first].shape, args[first + 1].shape[2]
        rows = directions * batch * length * -(-channels // ROW)
        return {SCAN: round(times * rows * ROW * n_states)}

    return count


def _conv1d(first: int) -> Callable[..., dict[str, int]]:
    """`first` is where x (k or 1, b, l, d) and weight (k, d, w) stand."""
    return lambda func, args, result: {CONV1D: args[first + 1].numel() * math.prod(args[first].shape[1:3])}


def _other(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    return {TRAFFIC: nbytes((args, result))}


def _norm(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    return {NORM_TRAFFIC: nbytes((args, result))}


NORMS = ("native_batch_norm", "cudnn_batch_norm", "native_layer_norm")
OPERATORS: dict[str, Callable[..., dict[str, int]]] = {
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution,
    **{f"aten::{norm}{backward}": _norm for norm in NORMS for backward in ("", "_backward")},
    "aten::mm": _matmul,
    "aten::addmm": _matmul,
    "aten::bmm": _matmul,
    "aten::baddbmm": _matmul,
    "nnunet_mamba::selective_scan": _scan(1, 1),
    "nnunet_mamba::selective_scan_backward": _scan(2, BACKWARD_SCANS),
    "nnunet_mamba::causal_conv1d": _conv1d(0),
    "nnunet_mamba::causal_conv1d_backward": _conv1d(1),
}
