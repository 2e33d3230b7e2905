"""What nnU-Net's variable nnUNet_extTrainer points at: the names of our trainers, and nothing else."""

from nnunet_mamba.trainers import *  # noqa: F403
