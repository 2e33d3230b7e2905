"""nnU-Net's trainer with one of our networks in it.

A trainer of this package is data: the network's name, its recipe, and the number of scales that are
supervised. To add one, write its class in `nnunet_mamba.trainers.networks` and add it to a table there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

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
from nnunet_mamba.trainers.environment import VMAMBA, read_checkpoint_stages, read_mixer_precision
from nnunet_mamba.trainers.recipe_trainer import RecipeTrainer

SSM_STATE = ("A_log", "A_logs", "D", "Ds", "dt_bias")  # what Mamba's authors exempt from weight decay


class MambaTrainer(RecipeTrainer):
    """Trainer of `network_name`, sized by the plans.

    nnU-Net decays the weights of A_log, D and Mamba-2's dt_bias like all others, and so did every paper
    here; `no_decay_ssm` exempts them.
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
