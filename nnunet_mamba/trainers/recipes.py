"""Recipes as data: optimiser, learning rate, length and loss of each paper.

What no recipe changes is nnU-Net's: sampling, augmentation, 250 iterations per epoch, gradients clipped at
norm 12, batch size of the plans. docs/recipes.md compares them with the papers. The loss and the frozen
encoder that recipes of papers need, and nnU-Net does not have, are below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from torch import Tensor, nn

from nnunet_mamba.trainers.lr_schedules import Cosine, OneCycle, Poly, Schedule

SMOOTH = 1e-5  # s in the formula below


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, loss and length of a training; the defaults are nnU-Net's recipe.

    settings                attributes of nnUNetTrainer and their values: initial_lr, weight_decay, num_epochs
    optimizer, options      torch's class, and its arguments besides parameters, lr and weight_decay
    schedule                the learning rate as a function of the epoch
    per_iteration           whether to set the rate before every iteration, not only at the start of an epoch
    loss                    constructor of a loss (logits, target) -> scalar of plain labels; None: nnU-Net's
    batch_size              None: that of the plans
    frozen_encoder_epochs   first epochs, in which the encoder is frozen but for what reads the image
    autocast                on CUDA, compute under nnU-Net's float16 autocast; else in float32
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    options: Mapping[str, Any] = field(default_factory=lambda: {"momentum": 0.99, "nesterov": True})
    schedule: Schedule = Poly(0.9)  # noqa: RUF009 (frozen)
    per_iteration: bool = False
    loss: Callable[[], nn.Module] | None = None
    batch_size: int | None = None
    frozen_encoder_epochs: int = 0
    autocast: bool = True


class CrossEntropyAndSquaredDice(nn.Module):
    """Loss of `weight` (cross-entropy + Dice loss with squared denominators), the background as a class like
    others.

        dice_c = 1 - (2 sum p_c t_c + s) / (sum p_c^2 + sum t_c^2 + s),    s = 1e-5

    p softmax, t one-hot, sums over all voxels of the batch, mean over the classes. Computed in float32.

    Shape: logits (B, C, *grid), target (B, 1, *grid) with labels 0 ... C-1 -> scalar.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, labels = logits.float(), target[:, 0].long()
        probabilities = logits.softmax(1)
        truth = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1)
        voxels = [0, *range(2, logits.ndim)]
        overlap = (probabilities * truth).sum(voxels)
        size = probabilities.square().sum(voxels) + truth.sum(voxels)
        dice = 1 - (2 * overlap + SMOOTH) / (size + SMOOTH)
        return self.weight * (F.cross_entropy(logits, labels) + dice.mean())


NNUNET = Recipe()
MM_UNET = Recipe(settings={"initial_lr": 1e-3})

XLSTM_UNET = Recipe(settings={"initial_lr": 5e-3})

TAMING = Recipe(
    settings={"initial_lr": 3e-4, "weight_decay": 3e-5, "num_epochs": 300},
    optimizer=torch.optim.RAdam,
    options={},
    schedule=Poly(1.0),
)
TAMING_COSINE = replace(TAMING, schedule=Cosine(eta_min=5e-6, t_max=100))
TAMING_COSINE_1000 = replace(TAMING_COSINE, settings={**TAMING.settings, "num_epochs": 1000})
TAMING_ONE_CYCLE = replace(TAMING, schedule=OneCycle())

VM_UNET = Recipe(
    settings={"initial_lr": 1e-3, "weight_decay": 1e-2, "num_epochs": 300},
    optimizer=torch.optim.AdamW,
    options={},
    schedule=Cosine(eta_min=1e-5, t_max=50),
    loss=CrossEntropyAndSquaredDice,
    batch_size=32,
)
VM_UNET_FULL_COSINE = replace(VM_UNET, schedule=Cosine(eta_min=1e-5))
MAMBA_UNET = Recipe(
    settings={"initial_lr": 1e-2, "weight_decay": 1e-4, "num_epochs": 40},  # of 250: 10,000 iterations
    options={"momentum": 0.9},
    per_iteration=True,
    loss=partial(CrossEntropyAndSquaredDice, 0.5),
    batch_size=24,
)
SWIN_UMAMBA = Recipe(
    settings={"initial_lr": 1e-4, "weight_decay": 5e-2},
    optimizer=torch.optim.AdamW,
    options={"eps": 1e-5},
    schedule=Cosine(eta_min=1e-6),
    frozen_encoder_epochs=10,
)
LIGHTM_UNET = Recipe(
    settings={"initial_lr": 1e-4, "weight_decay": 1e-5, "num_epochs": 100},
    optimizer=torch.optim.Adam,
    options={"eps": 1e-5},
    autocast=False,
)
SEGMAMBA_V2 = Recipe(per_iteration=True, loss=RobustCrossEntropyLoss)
NNMAMBA = Recipe(settings={"initial_lr": 1e-4}, autocast=False)

# Baselines, as U-Mamba's repository trains them (arXiv:2401.04722), and MedNeXt's own (arXiv:2303.09975)
SEG_RES_NET = Recipe(
    settings={"initial_lr": 1e-4, "weight_decay": 1e-5}, optimizer=torch.optim.Adam, options={"eps": 1e-5}
)
UNETR = Recipe(
    settings={"initial_lr": 1e-4, "weight_decay": 1e-2},
    optimizer=torch.optim.AdamW,
    options={"eps": 1e-5},
    schedule=Poly(1.0),
)
SWIN_UNETR = replace(
    UNETR, settings={"initial_lr": 8e-4, "weight_decay": 1e-2}, schedule=Cosine(eta_min=1e-6)
)
MEDNEXT = Recipe(settings={"initial_lr": 1e-3}, optimizer=torch.optim.AdamW, options={"eps": 1e-4})


def disable_autocast(network: nn.Module, device_type: str) -> None:
    """Let the network compute in the precision of its input, whatever autocast surrounds it."""
    forward = network.forward

    @wraps(forward)
    def without_autocast(x: Tensor) -> Any:
        with torch.autocast(device_type, enabled=False):
            return forward(x)

    network.forward = without_autocast


def freeze_parameters(
    parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, is_frozen: Callable[[], bool]
) -> None:
    """Keep `optimizer` from changing `parameters`, by weight decay and moments too, while `is_frozen()` is
    true.

    Setting requires_grad would make DDP wait for gradients that never come, and torch.compile compile anew.
    Here the gradients are always computed. While frozen they are set to zero on arrival, so that the clipped
    norm and the gradient scaler do not see them, and to None at the step. The cost, compared with
    requires_grad=False, is the backward pass through the frozen part.
    """
    parameters = list(parameters)

    def zero_gradient(gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if is_frozen() else gradient

    def drop_gradients(*_: object) -> None:
        if is_frozen():
            for parameter in parameters:
                parameter.grad = None

    for parameter in parameters:
        parameter.register_hook(zero_gradient)
    optimizer.register_step_pre_hook(drop_gradients)
