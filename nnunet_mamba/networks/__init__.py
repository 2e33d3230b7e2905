"""Networks by name. A plans file can name each by its dotted path, nnunet_mamba.networks.<name>."""

from functools import partial
from typing import Any

from nnunet_mamba.networks.family import create_network, list_networks

__all__ = ["create_network", "list_networks"]


def __getattr__(name: str) -> Any:
    if name in list_networks():
        return partial(create_network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
