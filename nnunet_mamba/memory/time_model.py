"""Seconds per unit of work on a device: small layers and networks are timed.

Every case is a forward pass with or without its backward pass, of which `work_of` says what it does. The
seconds per unit are those that fit all cases best, none of them negative.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from nnunet_mamba.blocks.convolution import StackedConvs
from nnunet_mamba.blocks.mixers import MambaMixer, MambaTransMixer
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.memory.live_memory import LiveMemory
from nnunet_mamba.memory.work import UNITS, work_of
from nnunet_mamba.networks.family import create_network

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
    patch = (32,) * ndim  # of which umamba_enc's weights depend
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
NETWORKS: Mapping[str, tuple[Layer, tuple[int, ...]]] = {  # where tensors are not warm from a cache
    "nnunet 3d": (_network("nnunet", 3, (16, 32, 64)), (2, 1, 32, 32, 32)),
    "nnunet 2d": (_network("nnunet", 2, (32, 64, 128, 256)), (4, 1, 96, 96)),
    "umamba_enc 3d": (_network("umamba_enc", 3, (16, 32, 64)), (2, 1, 32, 32, 32)),
    "vm_unet 2d": (partial(create_network, "vm_unet", input_channels=1, num_classes=3), (4, 1, 96, 96)),
}
NETWORK_WEIGHT = 3  # of a network's error, that of a layer is 1
MIN_SECONDS = 0.5  # per case
GPU_BATCH = 16  # times the batch on a GPU, where layers as small as these would time their launches


class Case:
    """A layer's forward pass on a random input, alone or with the backward pass."""

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
        total: Counter[str] = Counter()

        def observe(func: Any, args: tuple[Any, ...], result: Any, born: int) -> int:
            total.update(work_of(func, args, result, born))
            return 0

        with LiveMemory(observe):
            self.run()
        return total

    def seconds(self) -> float:
        """The fastest of the repetitions that MIN_SECONDS allow, three at least: others were disturbed."""
        self.run()
        times: list[float] = []
        while len(times) < 3 or sum(times) < MIN_SECONDS:
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return min(times)


def measure_seconds(device: torch.device, precision: str) -> dict[str, float]:
    """Seconds per unit of work, by the least squares of relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    rows, weights = [], []
    for name, (layer, shape) in {**LAYERS, **NETWORKS}.items():
        if device.type == "cuda" and name != "tiny":
            shape = (GPU_BATCH * shape[0], *shape[1:])
        for backward in (False, True):
            case = Case(layer, shape, device, precision, backward)
            work, seconds = case.work(), case.seconds()
            rows.append([work[unit] / seconds for unit in UNITS])
            weights.append(float(NETWORK_WEIGHT if name in NETWORKS else 1))
    matrix, weight = np.array(rows), np.array(weights)
    scale = matrix.max(axis=0)
    fitted, _ = nnls(matrix / scale * weight[:, None], weight)
    return dict(zip(UNITS, (fitted / scale).tolist(), strict=True))
