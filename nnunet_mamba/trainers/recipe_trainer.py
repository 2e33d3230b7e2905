"""nnU-Net's trainer with a recipe as data.

Everything that a recipe does not name, from data loading to checkpoints, is nnU-Net's own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_mamba.networks.finite import unwrap_model
from nnunet_mamba.trainers.freezing import freeze_parameters
from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer
from nnunet_mamba.trainers.recipes import NNUNET, Recipe
from nnunet_mamba.trainers.schedules import Scheduler

READS_IMAGE = ("stem", "patch_embed")
NEARLY_ZERO = 1e-6  # nnU-Net's own stand-in for a weight of 0 that lets the head have its gradient


class RecipeTrainer(GuardedTrainer):
    """Trains by `recipe`; a subclass says which network."""

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
            plans = with_batch_size(plans, configuration, self.recipe.batch_size)
        super().__init__(plans, configuration, fold, dataset_json, device)
        own_strides = self.own_output_strides()
        self.enable_deep_supervision = own_strides is None or len(own_strides) > 1

    @classmethod
    def attributes(cls) -> Mapping[str, Any]:
        return {**cls.recipe.settings, **cls.settings}

    @classmethod
    def own_output_strides(cls) -> tuple[int, ...] | None:
        """Voxels of the patch per voxel of each supervised output, the largest first; None: the plans'."""
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
                encoder_parameters(unwrap_model(self.network)),
                optimizer,
                lambda: self.current_epoch < recipe.frozen_encoder_epochs,
            )
        return optimizer, Scheduler(optimizer, recipe.schedule, self.initial_lr, self.num_epochs)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups; one, as nnU-Net has it."""
        return [{"params": list(self.network.parameters())}]

    def _build_loss(self) -> nn.Module:
        if self.recipe.loss is None:
            with np.errstate(invalid="ignore"):  # of a single scale nnU-Net makes 0 / 0, replaced below
                loss = super()._build_loss()
        else:
            self._refuse_other_than_labels()
            loss = self.recipe.loss()
            if self.enable_deep_supervision:
                loss = DeepSupervisionWrapper(loss, [1.0])
        if self.enable_deep_supervision:
            loss.weight_factors = deep_supervision_weights(
                len(self._get_deep_supervision_scales() or ()), drop_coarsest=self.n_supervised_scales is None
            )
        return loss

    def _refuse_other_than_labels(self) -> None:
        kinds = {
            "regions": self.label_manager.has_regions,
            "an ignore label": self.label_manager.has_ignore_label,
        }
        for kind, present in kinds.items():
            if present:
                name = type(self).__name__
                raise ValueError(
                    f"The dataset has {kind}, and the loss of {name} knows plain labels only. "
                    f"Train with {name.split('Paper')[0]}, whose loss is nnU-Net's."
                )

    def train_step(self, batch: dict) -> dict:
        if self.recipe.per_iteration:
            self.lr_scheduler.step(self.current_epoch + self._iteration / self.num_iterations_per_epoch)
        return super().train_step(batch)


def with_batch_size(plans: dict, configuration: str, batch_size: int) -> dict:
    """A copy of the plans, of which one configuration has another batch size."""
    configurations = plans["configurations"]
    changed = {**configurations[configuration], "batch_size": batch_size}
    return {**plans, "configurations": {**configurations, configuration: changed}}


def encoder_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Those of `network.encoder`, except those that read the image: they are never pretrained."""
    named = network.get_submodule("encoder").named_parameters()
    return [p for name, p in named if not any(part in name.split(".") for part in READS_IMAGE)]


def deep_supervision_weights(n_scales: int, *, drop_coarsest: bool) -> tuple[float, ...]:
    """Weights of the losses at `n_scales` resolutions, largest first: each half the one before, sum 1.

    `drop_coarsest` is nnU-Net's rule: the coarsest scale counts for nothing unless it is the only one. Its
    weight is 1e-6 rather than 0, as nnU-Net has it under DDP, for without a gradient for every parameter DDP
    stops.
    """
    weights = [2.0**-scale for scale in range(n_scales)]
    if drop_coarsest and n_scales > 1:
        weights[-1] = NEARLY_ZERO
    return tuple(weight / sum(weights) for weight in weights)
