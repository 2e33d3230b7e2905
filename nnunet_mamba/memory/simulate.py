"""A training step without memory or time: fake tensors, counted as they come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nnunet_mamba.memory.live_memory import LiveMemory
from nnunet_mamba.memory.scratch import kernel_of, scratch_of
from nnunet_mamba.memory.training import Training, random_batch
from nnunet_mamba.memory.work import work_of
from nnunet_mamba.ops.backends import force_backend

WEIGHTS, BATCH, KEPT, LOSS = "weights", "batch", "kept", "loss"
IMITATED_BY: Mapping[str | None, str] = {"mamba_ssm": "triton"}  # it has no fake kernels; states are alike


@dataclass(frozen=True)
class Step:
    """peak     bytes by kind at the moment when most were alive: weights (with gradients and momentum),
             batch, kept (the forward pass's tensors), loss, transient (backward's), scratch
    work     amounts by unit, of the whole step
    kernels  different convolutions, forward and backward
    outputs  the grids of the network's outputs, the largest first
    """

    peak: Counter[str]
    work: Counter[str]
    kernels: int
    outputs: tuple[tuple[int, ...], ...]


def simulate(
    network: nn.Module,
    *,
    batch: int,
    channels: int,
    classes: int,
    patch: Sequence[int],
    precision: str = "fp32",
    scratch: Mapping[str, float] | None = None,
    device: str = "cpu",
    backend: str | None = None,
) -> Step:
    """One training step of a network that was built on torch's meta device.

    Args:
        scratch: factors of `scratch_of`; None: operators take none.
        device, backend: the device of the fake tensors, and the backend of the scan, which need not run
            here.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    work: Counter[str] = Counter()
    kernels = set()

    def observe(func: Any, args: tuple[Any, ...], result: Any, born: int) -> int:
        work.update(work_of(func, args, result, born))
        kernels.add(kernel_of(func, args))
        return 0 if scratch is None else scratch_of(func, args, result, scratch)

    memory = LiveMemory(observe)
    with FakeTensorMode(), force_backend(IMITATED_BY.get(backend, backend)):
        _move(network, torch.device(device))
        x, targets = random_batch(network, batch, channels, classes, patch, torch.device(device))
        training = Training(network, x, targets, precision)
        _run(training, memory)
        outputs = tuple(tuple(target.shape[2:]) for target in targets)
    return Step(memory.peak, work, len(kernels - {None}), outputs)


def _move(network: nn.Module, device: torch.device) -> None:
    """Give every parameter and buffer an empty tensor of the device; once, for nnU-Net's own networks hold
    some modules under two names."""
    moved: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) not in moved:
                moved[id(p)] = nn.Parameter(
                    torch.empty(p.shape, dtype=p.dtype, device=device), p.requires_grad
                )
            module._parameters[name] = p if p is None else moved[id(p)]
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=device)


def _run(training: Training, memory: LiveMemory) -> None:
    parameters = list(training.network.parameters())
    memory.rename([*parameters, *training.network.buffers(), *training.momentum], WEIGHTS)
    memory.rename([training.x, *training.targets], BATCH)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: memory.rename([p.grad], WEIGHTS))
    with memory:
        with training.autocast():
            with memory.born_as(KEPT):
                outputs = training.forward()
            with memory.born_as(LOSS):
                loss = training.loss(outputs, training.targets)
        del outputs
        with memory.born_as("transient", backward=True):
            loss.backward()
        training.update()
