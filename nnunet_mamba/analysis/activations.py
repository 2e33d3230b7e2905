"""How features are spread inside and outside of the residual branches [1, fig. 2b].

Of a block act(x + M(F(x))), with its parts where its placement has them:

    skip      x, on the way around
    convs     F(x), after the convolutions
    mixer     what the mixer puts out: M(F(x)) inside, M(x) of an ssm block
    mixed     the same without the mixer's own residual, if it has one
    out       what the block puts out, outside of the branch

[1] Xie et al., MM-UNet, arXiv:2503.17540.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.vss import VSSBlock

BINS, REACH = 120, 6.0  # histograms count from -REACH to REACH; what lies beyond is in the outermost bins


@dataclass(frozen=True)
class Spread:
    """Of the values of one part of one block, over all voxels and channels."""

    block: str
    part: str
    inside: bool  # of the residual branch
    mean: float
    variance: float
    histogram: Tensor  # (BINS,) fractions


def spreads(network: nn.Module, data: Tensor) -> list[Spread]:
    """In the order in which the network computes them. ValueError for a network without residual blocks."""
    found: list[Spread] = []
    hooks = []
    for name, block in network.named_modules():
        for part, inside, module in parts_of(block):
            hooks.append(module.register_forward_hook(_keeper(found, name, part, inside)))
    if not hooks:
        raise ValueError(f"{type(network).__name__} has no residual blocks of this package to look into.")
    try:
        with torch.no_grad():
            network(data)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def parts_of(block: nn.Module) -> list[tuple[str, bool, nn.Module]]:
    """(part, inside the branch, module whose output it is)."""
    if isinstance(block, VSSBlock):
        return [("mixer", True, block.self_attention), ("out", False, block)]
    if not isinstance(block, MetaBlock):
        return []
    parts: list[tuple[str, bool, nn.Module]] = []
    if block.placement != "ssm":
        parts += [("skip", False, block.skip), ("convs", True, block.convs)]
    if block.placement in ("ssm", "hybrid_inside") and not isinstance(block.mixer, nn.Identity):
        if getattr(block.mixer, "residual", False):
            parts.append(("mixed", True, block.mixer.get_submodule("out_norm")))
        parts.append(("mixer", block.placement != "ssm" or block.adds_x, block.mixer))
    return [*parts, ("out", False, block)]


def _keeper(found: list[Spread], name: str, part: str, inside: bool) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(spread(name, part, inside, output))

    return keep


def spread(block: str, part: str, inside: bool, values: Tensor) -> Spread:
    """Counted at once, so that no features need to be kept."""
    values = values.detach().float()
    counts = torch.histc(values.clamp(-REACH, REACH), BINS, -REACH, REACH)
    variance, mean = torch.var_mean(values, correction=0)
    return Spread(block, part, inside, float(mean), float(variance), counts / counts.sum())
