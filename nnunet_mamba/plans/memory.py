"""Memory of a network's training step, for any patch, batch and topology, against that of a card.

The step is simulated on fake tensors (`nnunet_mamba.memory`): a second or more for each answer. For a
fixed topology memory is a line, fixed + per_voxel * batch * voxels, which two answers tell. It is that line
which is asked many times; the last word has `exact`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import torch

from nnunet_mamba.memory.estimate import estimate
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.networks.family import create_network
from nnunet_mamba.plans.architecture import with_network

# The share of a card's memory that plans leave free: CUDA's context, the allocator's gaps, workspaces of
# cuDNN, whatever the profile does not count. Nobody measured it for this package. Two published peaks of
# U-Mamba (12.4 GB Bot, 24.9 GB Enc [1]) are 1.4 and 1.2 times what is counted here for the plan of BTCV.
# [1] Isensee et al., nnU-Net Revisited, arXiv:2404.09556
RESERVE = 0.3
GIB = 2**30


def budget_bytes(vram_gb: float) -> int:
    """Bytes that a training step may count on a card of `vram_gb` GiB. ValueError if that is not positive."""
    if not 0 < vram_gb < inf:
        raise ValueError(f"The memory of a card must be a positive number of GiB, got {vram_gb}.")
    return int((1 - RESERVE) * vram_gb * GIB)


@dataclass(frozen=True)
class Job:
    """What decides the memory of an item of the batch: its patch, and the other sizes of the network as a
    plan holds them under arch_kwargs."""

    patch: tuple[int, ...]
    topology: Mapping[str, Any]

    @property
    def n_vox(self) -> int:
        """Voxels that the network works on: it pads patches to a multiple of its strides."""
        total = [prod(axis) for axis in zip(*self.topology["strides"], strict=True)]
        return prod(-(-size // step) * step for size, step in zip(self.patch, total, strict=True))


@dataclass
class StepMemory:
    """Peak bytes of the training step of one network, with deep supervision.

    channels, classes   of input and output
    profile             of the device
    """

    network: str
    channels: int
    classes: int
    profile: Profile
    _exact: dict[str, int] = field(default_factory=dict)
    _lines: dict[str, tuple[float, float]] = field(default_factory=dict)
    _weights: dict[str, int] = field(default_factory=dict)

    def job(self, patch: Sequence[int], architecture: Mapping[str, Any]) -> Job:
        """For a patch and the architecture block of a plan for it, be it nnU-Net's or ours."""
        grid = tuple(int(size) for size in patch)
        kwargs = with_network(architecture, self.network, grid)["arch_kwargs"]
        return Job(grid, {key: value for key, value in kwargs.items() if key != "patch_size"})

    def exact(self, job: Job, batch: int) -> int:
        """Simulated. ValueError if the network cannot be built for this job."""
        key = f"{_key(job.topology)} {job.patch} {batch}"
        if key not in self._exact:
            result = estimate(self.network, self._sizes(job), batch=batch, profile=self.profile)
            self._exact[key] = sum(result.memory_bytes.values())
        return self._exact[key]

    def _sizes(self, job: Job) -> dict[str, Any]:
        channels = {"input_channels": self.channels, "num_classes": self.classes}
        return {**job.topology, **channels, "patch_size": job.patch}

    def line(self, job: Job) -> tuple[float, float]:
        """Fixed bytes, and bytes per item of the batch, from two simulations of this topology."""
        key = _key(job.topology)
        if key not in self._lines:
            two, three = self.exact(job, 2), self.exact(job, 3)
            self._lines[key] = two - 2 * (three - two), (three - two) / job.n_vox
        fixed, per_voxel = self._lines[key]
        return fixed, per_voxel * job.n_vox

    def weights(self, job: Job) -> int:
        """Bytes of weights, gradients and momentum, which no patch makes smaller."""
        key = _key(job.topology)
        if key not in self._weights:
            with torch.device("meta"):
                network = create_network(self.network, **self._sizes(job))
            self._weights[key] = 3 * sum(p.numel() * p.element_size() for p in network.parameters())
        return self._weights[key]

    def largest_batch(self, job: Job, budget: int) -> float:
        """Items that fit into `budget` bytes by the line, not rounded; whether two fit says a simulation
        where the line says yes, or nearly. Of small patches the line says too little: weights are most of it.

        ValueError if the weights alone do not fit.
        """
        if self.weights(job) > budget:
            raise ValueError(f"Its weights, gradients and momentum take {self.weights(job) / GIB:.2f} GiB.")
        fixed, per_item = self.line(job)
        n = (budget - fixed) / per_item
        if n < 2 and fixed + 2 * per_item > (1 + NEAR) * budget:
            return n
        return max(n, 2.0) if self.exact(job, 2) <= budget else min(n, 1.99)

    def batch_that_fits(self, job: Job, budget: int, at_most: int) -> int:
        """The largest batch up to `at_most` whose simulation fits into `budget`; 0 if that is less than 2."""
        batch = min(at_most, int(self.largest_batch(job, budget)))
        while batch >= 2 and self.exact(job, batch) > budget:
            batch -= 1
        return batch if batch >= 2 else 0


NEAR = 0.01  # of the budget: closer than this the line is not trusted, though seen within 0.1 %


def _key(topology: Mapping[str, Any]) -> str:
    return json.dumps(topology, sort_keys=True, default=int)
