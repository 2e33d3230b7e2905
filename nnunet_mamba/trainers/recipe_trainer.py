"""nnU-Net's trainer with a recipe as data; all that a recipe does not name is nnU-Net's own."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_mamba.networks.finite import unwrap_model
from nnunet_mamba.trainers.base import GuardedTrainer
from nnunet_mamba.trainers.lr_schedules import Scheduler
from nnunet_mamba.trainers.recipes import NNUNET, Recipe, disable_autocast, freeze_parameters

READS_IMAGE = ("stem", "patch_embed")
NEARLY_ZERO = 1e-6  # nnU-Net's own replacement for a weight of 0, so that the head has a gradient


class RecipeTrainer(GuardedTrainer):
    """Trainer that follows `recipe`; a subclass builds the network."""

    recipe: ClassVar[Recipe] = NNUNET
    n_supervised_scales: ClassVar[int | None] = None  # the largest ones; None: nnU-Net's choice

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads this very signature)
    ):
        if self.recipe.batch_size is not None and self.plans_template is None:
            plans = replace_batch_size(plans, configuration, self.recipe.batch_size)
        super().__init__(plans, configuration, fold, dataset_json, device)
        own_strides = self.own_output_strides()
        self.enable_deep_supervision = own_strides is None or len(own_strides) > 1

    def initialize(self) -> None:
        super().initialize()
        if not self.recipe.autocast:
            disable_autocast(unwrap_model(self.network), self.device.type)
            self.grad_scaler = None

    @classmethod
    def attributes(cls) -> Mapping[str, Any]:
        return {**cls.recipe.settings, **cls.settings}

    @classmethod
    def own_output_strides(cls) -> tuple[int, ...] | None:
        """Return the strides of the supervised outputs, the largest output first; None: those of the
        plans."""
        return None

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        own_strides = self.own_output_strides()
        if own_strides is None or not self.enable_deep_supervision:
            scales = super()._get_deep_supervision_scales()
            return scales if scales is None else scales[: self.n_supervised_scales]
        return [[1 / stride] * len(self.configuration_manager.patch_size) for stride in own_strides]

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Scheduler]:
        recipe = self.recipe
        optimizer = recipe.optimizer(
            self.parameter_groups(), lr=self.initial_lr, weight_decay=self.weight_decay, **recipe.options
        )
        if recipe.frozen_encoder_epochs:
            freeze_parameters(
                get_encoder_parameters(unwrap_model(self.network)),
                optimizer,
                lambda: self.current_epoch < recipe.frozen_encoder_epochs,
            )
        return optimizer, Scheduler(optimizer, recipe.schedule, self.initial_lr, self.num_epochs)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimizer: a single one, as in nnU-Net."""
        return [{"params": list(self.network.parameters())}]

    def _build_loss(self) -> nn.Module:
        if self.recipe.loss is None:
            with np.errstate(invalid="ignore"):  # of a single scale nnU-Net makes 0 / 0, replaced below
                loss = super()._build_loss()
        else:
            self._check_plain_labels()
            loss = self.recipe.loss()
            if self.enable_deep_supervision:
                loss = DeepSupervisionWrapper(loss, [1.0])
        if self.enable_deep_supervision:
            loss.weight_factors = compute_deep_supervision_weights(
                len(self._get_deep_supervision_scales() or ()), drop_coarsest=self.n_supervised_scales is None
            )
        return loss

    def _check_plain_labels(self) -> None:
        kinds = {
            "regions": self.label_manager.has_regions,
            "an ignore label": self.label_manager.has_ignore_label,
        }
        for kind, present in kinds.items():
            if present:
                name = type(self).__name__
                raise ValueError(
                    f"The dataset has {kind}, and the loss of {name} takes plain labels only. "
                    f"Train with {name.split('Paper')[0]}, whose loss is nnU-Net's."
                )

    def train_step(self, batch: dict) -> dict:
        if self.recipe.per_iteration:
            self.lr_scheduler.step(self.current_epoch + self._iteration / self.num_iterations_per_epoch)
        return super().train_step(batch)


def replace_batch_size(plans: dict, configuration: str, batch_size: int) -> dict:
    """Return a copy of the plans with another batch size in one configuration."""
    configurations = plans["configurations"]
    changed = {**configurations[configuration], "batch_size": batch_size}
    return {**plans, "configurations": {**configurations, configuration: changed}}


def get_encoder_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `network.encoder` but for the layers that read the image, which are never
    pretrained."""
    named = network.get_submodule("encoder").named_parameters()
    return [p for name, p in named if not any(part in name.split(".") for part in READS_IMAGE)]


def compute_deep_supervision_weights(n_scales: int, *, drop_coarsest: bool) -> tuple[float, ...]:
    """Return the weights of the losses at `n_scales` resolutions, largest first: each half the one before,
    sum 1.

    `drop_coarsest` is nnU-Net's rule: the coarsest scale has no weight unless it is the only one. The weight
    is 1e-6 rather than 0, as in nnU-Net under DDP, which stops at a parameter without a gradient.
    """
    weights = [2.0**-scale for scale in range(n_scales)]
    if drop_coarsest and n_scales > 1:
        weights[-1] = NEARLY_ZERO
    return tuple(weight / sum(weights) for weight in weights)
