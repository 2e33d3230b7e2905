"""What nnU-Net's variable nnUNet_extTrainer points at: the names of our trainers, and nothing else."""

from nnunet_mamba.trainers import *  # noqa: F403
from nnunet_mamba.trainers import __getattr__  # noqa: F401 (suggests a name where a trainer is not found)
