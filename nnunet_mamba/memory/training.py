"""nnU-Net's training step, in its four parts, on real tensors or on fake ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("fp32", "fp16")


class Training:
    """A network, a batch, nnU-Net's loss and its SGD with momentum, which is there from the first step on.

    Args:
        x: (B, C, *grid)
        targets: labels (B, 1, *grid) of every supervised output, the largest first.
        precision: fp32, or fp16 for float16 autocast, as nnU-Net has it on CUDA.
    """

    def __init__(self, network: nn.Module, x: Tensor, targets: Sequence[Tensor], precision: str = "fp32"):
        self.network, self.x, self.targets, self.precision = network, x, list(targets), precision
        self.loss = nnunets_loss(len(self.targets))
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
        """All of it on real tensors; -> the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = self.forward()
            loss: Tensor = self.loss(outputs, self.targets)
        del outputs
        loss.backward()
        self.update()
        return loss.detach()


def nnunets_loss(n_outputs: int) -> nn.Module:
    """Cross-entropy and Dice at every supervised resolution."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, [2.0**-i for i in range(n_outputs)])


def random_batch(
    network: nn.Module, batch: int, channels: int, classes: int, patch: Sequence[int], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """An input, and a target for each of the network's outputs."""
    x = torch.randn(batch, channels, *patch, device=device)
    with torch.no_grad():
        outputs = network(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return x, [torch.randint(classes, (batch, 1, *y.shape[2:]), device=device) for y in outputs]
