"""nnU-Net's training step, and its simulation on fake tensors, which take no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.memory.live_memory import TRANSIENT, LiveMemory
from nnunet_mamba.memory.workspace import kernel_key, workspace_of
from nnunet_mamba.ops.backends import force_backend

WEIGHTS, BATCH, KEPT, LOSS = "weights", "batch", "kept", "loss"
# A backend without fake kernels -> one whose states are equal.
SIMULATED_AS: Mapping[str | None, str] = {"mamba_ssm": "triton"}


@dataclass(frozen=True)
class SimulatedStep:
    """Memory of a simulated training step.

    peak     bytes by kind at the moment with most: weights (with gradients and momentum), batch, kept (the
             forward pass's tensors), loss, transient (backward's), workspace
    kernels  number of different convolutions, forward and backward
    outputs  the grids of the network's outputs, the largest first
    """

    peak: Counter[str]
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
    workspace: Mapping[str, float] | None = None,
    device: str = "cpu",
    backend: str | None = None,
) -> SimulatedStep:
    """Simulate one training step of a network that was built on torch's meta device.

    Args:
        workspace: factors of `workspace_of`; None: operators take none.
        device: of the fake tensors.
        backend: of the scan, which need not be available.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    kernels = set()

    def observe(func: Any, args: tuple[Any, ...], result: Any) -> int:
        kernels.add(kernel_key(func, args))
        return 0 if workspace is None else workspace_of(func, args, result, workspace)

    memory = LiveMemory(observe)
    with FakeTensorMode(), force_backend(SIMULATED_AS.get(backend, backend)):
        _move_to_device(network, torch.device(device))
        x, targets = random_batch(network, batch, channels, classes, patch, torch.device(device))
        training = TrainingStep(network, x, targets, precision)
        _run_step(training, memory)
        outputs = tuple(tuple(target.shape[2:]) for target in targets)
    return SimulatedStep(memory.peak, len(kernels - {None}), outputs)


def _move_to_device(network: nn.Module, device: torch.device) -> None:
    """Replace every parameter and buffer by an empty tensor on the device, each once: nnU-Net's own networks
    hold some modules under two names."""
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


def _run_step(training: TrainingStep, memory: LiveMemory) -> None:
    """Run the step, and count its tensors by kind."""
    parameters = list(training.network.parameters())
    memory.relabel([*parameters, *training.network.buffers(), *training.momentum], WEIGHTS)
    memory.relabel([training.x, *training.targets], BATCH)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: memory.relabel([p.grad], WEIGHTS))
    with memory:
        with training.autocast():
            with memory.allocate_as(KEPT):
                outputs = training.forward()
            with memory.allocate_as(LOSS):
                loss = training.loss(outputs, training.targets)
        del outputs
        with memory.allocate_as(TRANSIENT, backward=True):
            loss.backward()
        training.update()


class TrainingStep:
    """Network, batch, nnU-Net's loss and its SGD, whose momentum is allocated before the first step.

    Args:
        x: (B, C, *grid)
        targets: labels (B, 1, *grid) of every supervised output, the largest first.
        precision: fp32, or fp16 for float16 autocast, nnU-Net's on CUDA.
    """

    def __init__(self, network: nn.Module, x: Tensor, targets: Sequence[Tensor], precision: str = "fp32"):
        self.network, self.x, self.targets, self.precision = network, x, list(targets), precision
        self.loss = nnunet_loss(len(self.targets))
        self.optimizer = torch.optim.SGD(
            network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        self.momentum = [torch.zeros_like(p) for p in network.parameters()]
        for parameter, buffer in zip(network.parameters(), self.momentum, strict=True):
            self.optimizer.state[parameter]["momentum_buffer"] = buffer

    def autocast(self) -> Any:
        return torch.autocast(self.x.device.type, torch.float16, enabled=self.precision == "fp16")

    def forward(self) -> list[Tensor]:
        outputs = self.network(self.x)
        return outputs if isinstance(outputs, list) else [outputs]

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()

    def step(self) -> Tensor:
        """Run the whole step on real tensors, and return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = self.forward()
            loss: Tensor = self.loss(outputs, self.targets)
        del outputs
        loss.backward()
        self.update()
        return loss.detach()


def nnunet_loss(n_outputs: int) -> nn.Module:
    """Return nnU-Net's loss: cross-entropy and Dice at every supervised resolution."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, [2.0**-i for i in range(n_outputs)])


def random_batch(
    network: nn.Module, batch: int, channels: int, classes: int, patch: Sequence[int], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """Return a random input, and a random target for each of the network's outputs."""
    x = torch.randn(batch, channels, *patch, device=device)
    with torch.no_grad():
        outputs = network(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return x, [torch.randint(classes, (batch, 1, *y.shape[2:]), device=device) for y in outputs]
