"""nnU-Net's trainer with a recipe as data, and with one of our networks in it.

All that a recipe does not name, from data loading to checkpoints, is nnU-Net's own. A trainer of this package
is data: the network's name, its recipe, and the number of scales that are supervised. To add one, write its
class in `nnunet_mamba.trainers.networks` and add it to a table there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_mamba.checkpoints.convert import select_weights
from nnunet_mamba.checkpoints.vmamba import NETWORKS as VMAMBA_NETWORKS
from nnunet_mamba.checkpoints.vmamba import load_vmamba
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import create_network, get_config
from nnunet_mamba.networks.finite import guard_output, unwrap_model
from nnunet_mamba.ops.backends import choose_backend
from nnunet_mamba.plans import network_sizes
from nnunet_mamba.trainers.base import GuardedTrainer
from nnunet_mamba.trainers.environment import VMAMBA, read_checkpoint_stages, read_mixer_precision
from nnunet_mamba.trainers.lr_schedules import Scheduler
from nnunet_mamba.trainers.recipes import NNUNET, Recipe, freeze_parameters

SSM_STATE = ("A_log", "A_logs", "D", "Ds")  # what Mamba's authors exempt from weight decay
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


class MambaTrainer(RecipeTrainer):
    """Trainer of `network_name`, sized by the plans.

    nnU-Net decays the weights of A_log and D like all others, and so did every paper here; `no_decay_ssm`
    exempts them.
    """

    network_name: ClassVar[str]
    overrides: ClassVar[Mapping[str, Any]] = {}  # of `create_network`
    no_decay_ssm: ClassVar[bool] = False
    checkpoint_stages: ClassVar[int | str] = 0  # in training; the environment variable takes precedence
    mixer_precision: ClassVar[str | None] = None  # None: the network's; the variable takes precedence

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network; nnU-Net calls this on the class for prediction, on the trainer for training."""
        network = create_network(
            cls.network_name,
            input_channels=num_input_channels,
            num_classes=num_output_channels,
            deep_supervision=enable_deep_supervision,
            mixer_precision=read_mixer_precision(cls.mixer_precision),
            **network_sizes(cls.network_name, configuration_manager),
            **cls.overrides,
        )
        return guard_output(network)

    def initialize(self) -> None:
        """Initialize as nnU-Net does, and set the stages to recompute, which only training needs."""
        stages = read_checkpoint_stages(self.checkpoint_stages)
        super().initialize()
        network: Any = unwrap_model(self.network)
        network.set_activation_checkpointing(stages)

    @classmethod
    def own_output_strides(cls) -> tuple[int, ...] | None:
        config = get_config(cls.network_name)
        return config.output_strides if isinstance(config, FixedConfig) else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        if not self.no_decay_ssm:
            return super().parameter_groups()
        named = list(unwrap_model(self.network).named_parameters())
        state = [parameter for name, parameter in named if name.rsplit(".", 1)[-1] in SSM_STATE]
        others = [parameter for name, parameter in named if name.rsplit(".", 1)[-1] not in SSM_STATE]
        return [{"params": others}, {"params": state, "weight_decay": 0.0}]

    def on_train_start(self) -> None:
        backend = choose_backend(None, self.device.type)  # raises if the one that was set is not available
        has_weights = self.was_initialized or self.current_epoch > 0  # initialised already: to load a file
        if not self.was_initialized:
            self.initialize()
        network = unwrap_model(self.network)
        origin = initialize_from_vmamba(network, self.network_name, has_weights=has_weights)
        super().on_train_start()
        self.log_message(f"Selective scan on {self.device.type}: backend {backend}")
        precision = read_mixer_precision(self.mixer_precision)
        if precision is not None:
            self.log_message(f"mixer_precision: {precision}")
        if origin is not None:
            self.log_message(origin)


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


def initialize_from_vmamba(network: nn.Module, network_name: str, *, has_weights: bool) -> str | None:
    """Load VMamba's ImageNet weights from the file that NNUNET_MAMBA_VMAMBA names; return a message for the
    log.

    Returns None for networks that VMamba's weights do not fit. The network is not changed if the variable is
    not set, or if it `has_weights` from a checkpoint or nnU-Net's -pretrained_weights. Raises ValueError,
    before any training, for a file that is missing, of another version or that does not fit.
    """
    if network_name not in VMAMBA_NETWORKS:
        return None
    path = os.environ.get(VMAMBA)
    if has_weights:
        return f"{VMAMBA} is set, but not used: the network has weights already." if path else None
    if not path:
        return (
            f"Training {network_name} from scratch. Its paper starts from VMamba's ImageNet weights: set "
            f"{VMAMBA} to the file vssmtiny_dp01_ckpt_epoch_292.pth (or the small one) to do so."
        )
    weights = select_weights(load_restricted(Path(path).expanduser()), path)
    return f"{load_vmamba(network, weights.tensors, network_name)} From {path}, {weights}."
