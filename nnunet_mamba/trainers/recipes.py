"""Recipes as data: optimiser, learning rate, length and loss of each paper.

What no recipe changes is nnU-Net's: sampling, augmentation, 250 iterations per epoch, gradients clipped at
norm 12, float16 autocast on CUDA, batch size of the plans. docs/recipes.md compares them with the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from nnunet_mamba.trainers.losses import CrossEntropyAndSquaredDice
from nnunet_mamba.trainers.schedules import Cosine, OneCycle, Poly, Schedule


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are nnU-Net's recipe.

    settings                attributes of nnUNetTrainer and their values: initial_lr, weight_decay, num_epochs
    optimizer, options      torch's class, and its arguments besides parameters, lr and weight_decay
    schedule                the learning rate as a function of the epoch
    per_iteration           set the rate before every iteration, not only at the start of an epoch
    loss                    makes a loss (logits, target) -> scalar in place of nnU-Net's; labels only
    batch_size              in place of the plans'
    frozen_encoder_epochs   epochs during which the encoder is not trained, except what reads the image
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    options: Mapping[str, Any] = field(default_factory=lambda: {"momentum": 0.99, "nesterov": True})
    schedule: Schedule = Poly(0.9)  # noqa: RUF009 (frozen)
    per_iteration: bool = False
    loss: Callable[[], nn.Module] | None = None
    batch_size: int | None = None
    frozen_encoder_epochs: int = 0


NNUNET = Recipe()
MM_UNET = Recipe(settings={"initial_lr": 1e-3})

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
