"""Mamba segmentation networks for stock nnU-Net v2.

The public names import torch when they are first used, so that the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.networks import create_network, list_networks
    from nnunet_mamba.ops import available_backends, selective_scan

__all__ = ["available_backends", "create_network", "list_networks", "selective_scan"]
__version__ = "0.2.0"
_HOMES = {
    "available_backends": "ops",
    "create_network": "networks",
    "list_networks": "networks",
    "selective_scan": "ops",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"nnunet_mamba.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
