"""The control of a study: nnU-Net itself, as carefully run as the trainers that it is compared with."""

from nnunet_mamba.trainers.checkpoint_stages import refuse_checkpoint_stages
from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer


class nnUNetTrainerControl(GuardedTrainer):
    """nnU-Net's own network and recipe, as the plans say, ResEnc plans included; it can be seeded and
    resumed like all trainers here."""

    def initialize(self) -> None:
        refuse_checkpoint_stages("nnU-Net's own network")
        super().initialize()
