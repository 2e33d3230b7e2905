"""Time of a training step: units of work, and the seconds that a device takes for each.

The operators of a step are counted as work in the units below (`count_work`). A device's seconds per unit are
fitted to the times of small layers and networks, each with and without a backward pass; none is negative.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from nnunet_mamba.blocks.convolution import StackedConvs
from nnunet_mamba.blocks.mixers import MambaMixer, MambaTransMixer
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.memory.live_memory import LiveMemory, count_bytes, operator_name
from nnunet_mamba.networks.family import create_network

# Units of work; a profile has the seconds of each.
CONV, CONV_TRAFFIC, DEPTHWISE, MATMUL = "conv_flop", "conv_byte", "depthwise_byte", "matmul_flop"
SCAN, CONV1D = "scan_element", "walk_element"
NORM_TRAFFIC, TRAFFIC, CALL = "norm_byte", "byte", "call"
GROUPS = {  # for output
    "convolutions": (CONV, CONV_TRAFFIC, DEPTHWISE),
    "matrix products": (MATMUL,),
    "scans": (SCAN, CONV1D),
    "norms and all else": (NORM_TRAFFIC, TRAFFIC, CALL),
}
UNITS = tuple(unit for units in GROUPS.values() for unit in units)

ROW = 64  # channels that a CPU's scan processes together, a multiple even if there are fewer
# Time of a scan's backward pass over that of its forward pass: benchmarks/results/scan_cpu_1_thread.json.
# The two always come together, so a fit could not separate rates of their own.
BACKWARD_SCANS = 2.1
aten = torch.ops.aten
CONVOLUTION, CONVOLUTION_BACKWARD = aten.convolution.default, aten.convolution_backward.default


def count_work(func: Any, args: tuple[Any, ...], result: Any, allocated: int) -> Counter[str]:
    """Count the work of one call of an operator by unit; its result takes `allocated` new bytes."""
    if not allocated and not func._schema.is_mutable:
        return Counter()  # a view
    own = OPERATORS.get(operator_name(func), _other)
    return Counter(own(func, args, result)) + Counter({CALL: 1})


def _convolution(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    groups = args[9] if func is CONVOLUTION_BACKWARD else args[8]
    if groups > 1:  # bound by memory
        return {DEPTHWISE: count_bytes((args[:3], result))}
    return {CONV: _flop(func, args, result), CONV_TRAFFIC: count_bytes((args[:3], result))}


def _matmul(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    return {MATMUL: _flop(func, args, result), TRAFFIC: count_bytes((args, result))}


def _flop(func: Any, args: tuple[Any, ...], result: Any) -> int:
    count: Callable[..., int] = flop_registry[func._overloadpacket]
    return int(count(*args, out_val=result))


def _scan(first: int, times: float) -> Callable[..., dict[str, int]]:
    """Return the count for a scan whose arguments from `first` on are delta (k, b, l, d) and A (k, d, n)."""

    def count(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
        (directions, batch, length, channels), n_states = args[first].shape, args[first + 1].shape[2]
        rows = directions * batch * length * -(-channels // ROW)
        return {SCAN: round(times * rows * ROW * n_states)}

    return count


def _conv1d(first: int) -> Callable[..., dict[str, int]]:
    """Return the count for a convolution whose arguments from `first` on are x (k or 1, b, l, d) and weight
    (k, d, w)."""
    return lambda func, args, result: {CONV1D: args[first + 1].numel() * math.prod(args[first].shape[1:3])}


def _other(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    return {TRAFFIC: count_bytes((args, result))}


def _norm(func: Any, args: tuple[Any, ...], result: Any) -> dict[str, int]:
    return {NORM_TRAFFIC: count_bytes((args, result))}


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


Layer = Callable[[], nn.Module]


def _convs(channels: int, ndim: int) -> Layer:
    return partial(StackedConvs, channels, channels, [3] * ndim, [1] * ndim, n_convs=3)


def _network(name: str, ndim: int, features: tuple[int, ...]) -> Layer:
    n, ones, twos, threes = len(features), (1,) * ndim, (2,) * ndim, (3,) * ndim
    sizes: dict[str, Any] = {
        "features_per_stage": features,
        "strides": (ones, *(twos,) * (n - 1)),
        "kernel_sizes": (threes,) * n,
    }
    patch = (32,) * ndim  # umamba_enc's weights depend on it
    return partial(create_network, name, input_channels=1, num_classes=3, patch_size=patch, **sizes)


LAYERS: Mapping[str, tuple[Layer, tuple[int, ...]]] = {  # layer, shape of its input
    "conv3d 16": (_convs(16, 3), (2, 16, 32, 48, 32)),
    "conv3d 32": (_convs(32, 3), (2, 32, 16, 24, 16)),
    "conv3d 64": (_convs(64, 3), (2, 64, 8, 12, 8)),
    "conv3d 128": (_convs(128, 3), (2, 128, 4, 6, 4)),
    "conv3d 1x1": (partial(nn.Conv3d, 32, 16, 1), (2, 32, 32, 48, 32)),
    "conv2d 32": (_convs(32, 2), (4, 32, 128, 128)),
    "conv2d 256": (_convs(256, 2), (4, 256, 16, 16)),
    "transposed": (partial(nn.ConvTranspose3d, 32, 16, 2, 2), (2, 32, 16, 24, 16)),
    "depthwise": (partial(nn.Conv2d, 192, 192, 3, padding=1, groups=192), (4, 192, 32, 32)),
    "instance norm": (partial(nn.InstanceNorm3d, 16, affine=True), (2, 16, 32, 48, 32)),
    "instance norm, small": (partial(nn.InstanceNorm3d, 64, affine=True), (2, 64, 8, 12, 8)),
    "layer norm": (partial(nn.LayerNorm, 96), (4, 32, 32, 96)),
    "leaky relu": (nn.LeakyReLU, (2, 16, 32, 48, 32)),
    "linear": (partial(nn.Linear, 96, 384), (4, 1024, 96)),
    "linear, wide": (partial(nn.Linear, 768, 1536), (4, 16, 768)),
    "tiny": (nn.GELU, (2, 8)),
    "mamba": (partial(MambaMixer, 32, 3), (2, 32, 16, 24, 16)),
    "mamba, wide": (partial(MambaMixer, 128, 3), (2, 128, 4, 6, 4)),
    "mamba, transposed": (partial(MambaTransMixer, 32, 3, d_state=32), (2, 32, 8, 24, 16)),
    "ss2d": (partial(SS2D, 96, order="HW,WH,-HW,-WH"), (4, 32, 32, 96)),
    "ss2d, many states": (partial(SS2D, 96, order="HW,WH,-HW,-WH", d_state=64), (2, 24, 24, 96)),
    "ss2d, wide": (partial(SS2D, 768, order="HW,WH,-HW,-WH"), (4, 4, 4, 768)),
}
NETWORKS: Mapping[str, tuple[Layer, tuple[int, ...]]] = {  # their tensors are not in a cache yet
    "nnunet 3d": (_network("nnunet", 3, (16, 32, 64)), (2, 1, 32, 32, 32)),
    "nnunet 2d": (_network("nnunet", 2, (32, 64, 128, 256)), (4, 1, 96, 96)),
    "umamba_enc 3d": (_network("umamba_enc", 3, (16, 32, 64)), (2, 1, 32, 32, 32)),
    "vm_unet 2d": (partial(create_network, "vm_unet", input_channels=1, num_classes=3), (4, 1, 96, 96)),
}
NETWORK_WEIGHT = 3  # of a network's error; a layer's is 1
MIN_SECONDS = 0.5  # per case
GPU_BATCH = 16  # factor of the batch on a GPU, where launches would dominate the times of such small layers


class TimedLayer:
    """Forward pass of a layer on a random input, alone or with the backward pass."""

    def __init__(
        self, layer: Layer, shape: tuple[int, ...], device: torch.device, precision: str, backward: bool
    ):
        self.layer, self.backward, self.fp16 = layer().to(device), backward, precision == "fp16"
        self.x = torch.randn(shape, device=device, requires_grad=True)

    def run(self) -> None:
        with torch.autocast(self.x.device.type, torch.float16, enabled=self.fp16):
            y = self.layer(self.x)
        if self.backward:
            y.backward(torch.ones_like(y))
        if self.x.is_cuda:
            torch.cuda.synchronize()

    def work(self) -> Counter[str]:
        """Count the work of a pass by unit."""
        total: Counter[str] = Counter()

        def observe(func: Any, args: tuple[Any, ...], result: Any, allocated: int) -> int:
            total.update(count_work(func, args, result, allocated))
            return 0

        with LiveMemory(observe):
            self.run()
        return total

    def seconds(self) -> float:
        """Return the time of the fastest of the repetitions within MIN_SECONDS, at least three."""
        self.run()
        times: list[float] = []
        while len(times) < 3 or sum(times) < MIN_SECONDS:
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return min(times)


def measure_seconds(device: torch.device, precision: str) -> dict[str, float]:
    """Measure the seconds per unit of work, by the least squares of relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    rows, weights = [], []
    for name, (layer, shape) in {**LAYERS, **NETWORKS}.items():
        if device.type == "cuda" and name != "tiny":
            shape = (GPU_BATCH * shape[0], *shape[1:])
        for backward in (False, True):
            timed = TimedLayer(layer, shape, device, precision, backward)
            work, seconds = timed.work(), timed.seconds()
            rows.append([work[unit] / seconds for unit in UNITS])
            weights.append(float(NETWORK_WEIGHT if name in NETWORKS else 1))
    matrix, weight = np.array(rows), np.array(weights)
    scale = matrix.max(axis=0)
    fitted, _ = nnls(matrix / scale * weight[:, None], weight)
    return dict(zip(UNITS, (fitted / scale).tolist(), strict=True))
