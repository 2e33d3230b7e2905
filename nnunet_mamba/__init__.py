"""Mamba segmentation networks for stock nnU-Net v2."""

from nnunet_mamba.networks import create_network, list_networks
from nnunet_mamba.ops import available_backends, selective_scan

__all__ = ["available_backends", "create_network", "list_networks", "selective_scan"]
__version__ = "0.1.0"
