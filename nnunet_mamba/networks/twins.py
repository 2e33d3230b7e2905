"""Trained networks with their mixers switched off.

The twin of a network is the network in which every mixer, with its norms and projections, is the identity,
and it has the same names of weights. So a trained network without its mixers is its twin with the
weights that both have: what is left of the network, in contrast to a twin that was trained itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.networks.finite import unwrap_model
from nnunet_mamba.networks.unet import UNet


def without_mixers(network: nn.Module) -> UNet:
    """Return the twin of a network of `create_network`, with copies of the network's weights.

    Raises ValueError for a network without mixers, one that is not ours, and one that lacks a weight of the
    twin's.
    """
    network = unwrap_model(network)
    if not isinstance(network, UNet) or not hasattr(network, "spec"):
        raise ValueError(
            f"{type(network).__name__} is not a network of this package, so it is not known what its mixers "
            "are; expected one that `nnunet-mamba networks` lists."
        )
    spec = network.spec
    if spec.config.mixer is None:
        raise ValueError(f"{spec.name} has no mixer to switch off; predict with it as it is.")
    decoder: Any = network.decoder
    twin = spec._replace(config=spec.config.without_ssm()).build(decoder.deep_supervision)
    weights = network.state_dict()
    twin.to(next(iter(weights.values())))
    twin.load_state_dict(select_shared(twin, weights))
    return twin.train(network.training)


def select_shared(twin: UNet, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those weights of a network that its twin has. ValueError if any of the twin's is missing."""
    own = twin.state_dict()
    lacking = [key for key, one in own.items() if key not in weights or weights[key].shape != one.shape]
    if lacking:
        raise ValueError(
            f"{twin.spec.name} without its mixers is no part of the network: {join_names(lacking, 3)} of its "
            "twin do not correspond to weights of the network. Train the twin instead."
        )
    return {key: weights[key] for key in own}
