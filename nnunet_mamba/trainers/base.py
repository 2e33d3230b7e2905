"""nnU-Net's trainer with one of our networks in it.

A trainer of this package is data: the network's name, the settings in which its recipe differs from
nnU-Net's, and how many scales its deep supervision has. Everything else, from data loading to checkpoints, is
nnU-Net's own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_mamba.ops.backends import choose_backend
from nnunet_mamba.plans import load_template, network_kwargs, shrink_plans
from nnunet_mamba.trainers.non_finite import NonFiniteLossError, bare_network, diagnose, refuse_non_finite

NEARLY_ZERO = 1e-6  # nnU-Net's own stand-in for a weight of 0 that lets the head have its gradient


class MambaTrainer(nnUNetTrainer):
    """Trains `network_name` by nnU-Net's recipe, changed where `settings` says so.

    To add a trainer, name a subclass in `nnunet_mamba.trainers`.
    """

    network_name: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}  # attributes of nnUNetTrainer and their values
    n_supervised_scales: ClassVar[int | None] = None  # the largest ones; None: nnU-Net's choice
    plans_template: ClassVar[str | None] = None  # cut the plans to this budget first

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads this very signature)
    ):
        if self.plans_template is not None:
            plans = shrink_plans(plans, load_template(self.plans_template))
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in self.settings.items():
            assert hasattr(self, name), f"nnUNetTrainer has no setting {name!r}"
            setattr(self, name, value)
        self._iteration = 0  # within the epoch and its phase

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of the plans; called on the class for prediction, on the trainer for training."""
        from nnunet_mamba.networks import create_network

        return create_network(
            cls.network_name,
            input_channels=num_input_channels,
            num_classes=num_output_channels,
            deep_supervision=enable_deep_supervision,
            **network_kwargs(configuration_manager),
        )

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        scales = super()._get_deep_supervision_scales()
        return scales if scales is None else scales[: self.n_supervised_scales]

    def _build_loss(self) -> nn.Module:
        with np.errstate(invalid="ignore"):  # of a single scale nnU-Net makes 0 / 0, replaced below
            loss = super()._build_loss()
        if self.enable_deep_supervision:
            loss.weight_factors = deep_supervision_weights(
                len(self._get_deep_supervision_scales() or ()), drop_coarsest=self.n_supervised_scales is None
            )
        loss.register_forward_hook(refuse_non_finite)
        return loss

    def on_train_start(self) -> None:
        backend = choose_backend(None, self.device.type)  # one asked for in vain ends the run here
        super().on_train_start()
        self.print_to_log_file(f"Selective scan on {self.device.type}: backend {backend}")

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._iteration = 0

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._iteration = 0

    def train_step(self, batch: dict) -> dict:
        return self._guarded(super().train_step, batch, "training")

    def validation_step(self, batch: dict) -> dict:
        return self._guarded(super().validation_step, batch, "validation")

    def _guarded(self, step: Any, batch: dict, phase: str) -> dict:
        """Run one step; a loss that is not finite stops the run before it can reach the weights."""
        try:
            result = step(batch)
        except NonFiniteLossError:
            message = self._explain_non_finite(batch, phase)
            self.print_to_log_file(message)
            raise NonFiniteLossError(message) from None
        self._iteration += 1
        return result

    def _explain_non_finite(self, batch: dict, phase: str) -> str:
        cause = diagnose(bare_network(self.network), batch["data"].to(self.device))
        return (
            f"The loss is not finite in epoch {self.current_epoch}, {phase} iteration {self._iteration} "
            f"(counted from 0). {cause} Weights and checkpoints are as they were before this step. "
            "Look at the layer and the data, or lower initial_lr; "
            f"`--c` resumes from the last checkpoint in {self.output_folder}."
        )

    def plot_network_architecture(self) -> None:
        """Skipped: nnU-Net would trace the network with a full patch, which costs memory and time."""


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
