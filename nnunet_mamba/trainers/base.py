"""nnU-Net's trainer with one of our networks in it.

A trainer of this package is data: the network's name, its recipe, and how many scales its deep supervision
has. To add one, write its class in `nnunet_mamba.trainers.family` and name it there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import create_network, get_config
from nnunet_mamba.networks.finite import guard_output, unwrap_model
from nnunet_mamba.ops.backends import choose_backend
from nnunet_mamba.plans import network_sizes
from nnunet_mamba.trainers.checkpoint_stages import asked_checkpoint_stages
from nnunet_mamba.trainers.mixer_precision import asked_mixer_precision
from nnunet_mamba.trainers.pretrained import start_from_vmamba
from nnunet_mamba.trainers.recipe_trainer import RecipeTrainer

SSM_STATE = ("A_log", "A_logs", "D", "Ds")  # what Mamba's authors spare from weight decay


class MambaTrainer(RecipeTrainer):
    """Trains `network_name`, sized by the plans.

    nnU-Net decays the weights of A_log and D like all others, and so did every paper here; `no_decay_ssm`
    spares them.
    """

    network_name: ClassVar[str]
    overrides: ClassVar[Mapping[str, Any]] = {}  # of `create_network`
    no_decay_ssm: ClassVar[bool] = False
    checkpoint_stages: ClassVar[int | str] = 0  # in training, unless the variable of this name is set
    mixer_precision: ClassVar[str | None] = None  # the networks' own; likewise, and in prediction

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
        network = create_network(
            cls.network_name,
            input_channels=num_input_channels,
            num_classes=num_output_channels,
            deep_supervision=enable_deep_supervision,
            mixer_precision=asked_mixer_precision(cls.mixer_precision),
            **network_sizes(cls.network_name, configuration_manager),
            **cls.overrides,
        )
        return guard_output(network)

    def initialize(self) -> None:
        """Also says which stages to recompute: a matter of training, of which a prediction knows nothing."""
        stages = asked_checkpoint_stages(self.checkpoint_stages)
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
        backend = choose_backend(None, self.device.type)  # one asked for in vain ends the run here
        has_weights = self.was_initialized or self.current_epoch > 0  # initialised by now: to load a file
        if not self.was_initialized:
            self.initialize()
        origin = start_from_vmamba(unwrap_model(self.network), self.network_name, has_weights=has_weights)
        super().on_train_start()
        self.log_message(f"Selective scan on {self.device.type}: backend {backend}")
        precision = asked_mixer_precision(self.mixer_precision)
        if precision is not None:
            self.log_message(f"mixer_precision: {precision}")
        if origin is not None:
            self.log_message(origin)
