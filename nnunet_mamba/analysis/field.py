"""The effective receptive field: how far an output voxel feels its input [1].

[1] Luo et al., Understanding the effective receptive field, arXiv:1701.04128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Field:
    """|d logit / d input| of one output voxel, summed over input channels (*grid); the logit is that of the
    class which the network gives to the voxel."""

    place: tuple[int, ...]
    label: int
    gradient: Tensor

    def distances(self) -> Tensor:
        """Of every voxel from `place`, in voxels."""
        axes = [
            torch.arange(n, dtype=torch.float64) - at
            for n, at in zip(self.gradient.shape, self.place, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()

    def mass_within(self) -> tuple[Tensor, Tensor]:
        """Distances, ascending, and the fraction of the gradient that lies within each."""
        distance, order = self.distances().flatten().sort()
        mass = self.gradient.flatten()[order].cumsum(0)
        return distance, mass / mass[-1]

    def radius(self, fraction: float) -> float:
        """The distance within which this fraction of the gradient lies."""
        distance, mass = self.mass_within()
        return float(distance[int((mass < fraction - 1e-12).sum())])


def receptive_field(network: nn.Module, data: Tensor, place: Sequence[int]) -> Field:
    """Of the voxel at `place` of the patch `data` (1, C, *grid)."""
    x = data.detach().clone().requires_grad_()
    voxel = (0, slice(None), *place)
    logits = network(x)[voxel]
    label = int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[label], x)
    seen = gradient[0].abs().sum(0).double()
    if not seen.any():
        raise ValueError(
            f"The output at {tuple(place)} does not depend on the input at all; the weights are broken."
        )
    return Field(tuple(place), label, seen)
