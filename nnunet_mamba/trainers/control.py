"""The control of a study: nnU-Net itself, as carefully run as the trainers that it is compared with."""

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_mamba.networks.finite import guard_output
from nnunet_mamba.trainers.checkpoint_stages import refuse_checkpoint_stages
from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer


class nnUNetTrainerControl(GuardedTrainer):
    """nnU-Net's own network and recipe, as the plans say, ResEnc plans included; it can be seeded and
    resumed like all trainers here."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        build = nnUNetTrainer.build_network_architecture
        sizes = (num_input_channels, num_output_channels, enable_deep_supervision)
        return guard_output(build(plans_manager, configuration_manager, *sizes))

    def initialize(self) -> None:
        refuse_checkpoint_stages("nnU-Net's own network")
        super().initialize()
