"""Weights of other repositories for our networks."""

from nnunet_mamba.checkpoints.convert import convert_state_dict

__all__ = ["convert_state_dict"]
