"""Memory of a network's training step for any patch, batch and topology, compared with that of a GPU.

The step is simulated on fake tensors (`nnunet_mamba.memory`), which takes a second or more. For a fixed
topology memory is a line, fixed + per_voxel * batch * voxels, fitted to two simulations. The planner uses
that line many times; a simulation confirms the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import torch

from nnunet_mamba.memory.estimate import estimate_memory
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.networks.family import create_network
from nnunet_mamba.plans.architecture import replace_network

# The share of a GPU's memory that plans leave free for CUDA's context, the allocator's gaps, workspaces of
# cuDNN, and all else that the profile does not count. It was not measured for this package. Two published
# peaks of U-Mamba (12.4 GB Bot, 24.9 GB Enc [1]) are 1.4 and 1.2 times what is counted here for BTCV's plan.
# [1] Isensee et al., nnU-Net Revisited, arXiv:2404.09556
RESERVE = 0.3
GIB = 2**30


def budget_bytes(vram_gb: float) -> int:
    """Return the bytes that a step may take on a GPU of `vram_gb` GiB. ValueError if that is not positive."""
    if not 0 < vram_gb < inf:
        raise ValueError(f"The memory of a card must be a positive number of GiB, got {vram_gb}.")
    return int((1 - RESERVE) * vram_gb * GIB)


@dataclass(frozen=True)
class StepSizes:
    """Sizes that determine the memory per item of the batch: its patch, and the network's sizes, which plans
    hold under arch_kwargs."""

    patch: tuple[int, ...]
    topology: Mapping[str, Any]

    @property
    def n_vox(self) -> int:
        """Return the voxels that the network works on: it pads patches to a multiple of its strides."""
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

    def step_sizes(self, patch: Sequence[int], architecture: Mapping[str, Any]) -> StepSizes:
        """Return the sizes of a patch and of the architecture block of its plan, nnU-Net's or ours."""
        grid = tuple(int(size) for size in patch)
        kwargs = replace_network(architecture, self.network, grid)["arch_kwargs"]
        return StepSizes(grid, {key: value for key, value in kwargs.items() if key != "patch_size"})

    def simulate(self, step: StepSizes, batch: int) -> int:
        """Return the peak bytes by simulation. ValueError if the network cannot be built in these sizes."""
        key = f"{_key(step.topology)} {step.patch} {batch}"
        if key not in self._exact:
            sizes = self._network_arguments(step)
            self._exact[key] = estimate_memory(
                self.network, sizes, batch=batch, profile=self.profile
            ).peak_bytes
        return self._exact[key]

    def _network_arguments(self, step: StepSizes) -> dict[str, Any]:
        channels = {"input_channels": self.channels, "num_classes": self.classes}
        return {**step.topology, **channels, "patch_size": step.patch}

    def fit_line(self, step: StepSizes) -> tuple[float, float]:
        """Return fixed bytes, and bytes per item of the batch, from two simulations of this topology."""
        key = _key(step.topology)
        if key not in self._lines:
            two, three = self.simulate(step, 2), self.simulate(step, 3)
            self._lines[key] = two - 2 * (three - two), (three - two) / step.n_vox
        fixed, per_voxel = self._lines[key]
        return fixed, per_voxel * step.n_vox

    def weight_bytes(self, step: StepSizes) -> int:
        """Return the bytes of weights, gradients and momentum, which do not depend on the patch."""
        key = _key(step.topology)
        if key not in self._weights:
            with torch.device("meta"):
                network = create_network(self.network, **self._network_arguments(step))
            self._weights[key] = 3 * sum(p.numel() * p.element_size() for p in network.parameters())
        return self._weights[key]

    def largest_batch(self, step: StepSizes, budget: int) -> float:
        """Return the number of items that fit into `budget` bytes by the line, not rounded.

        If two fit by the line, or nearly, a simulation confirms it: the line is too low for small patches,
        whose memory is mostly weights. ValueError if the weights alone do not fit.
        """
        if self.weight_bytes(step) > budget:
            raise ValueError(
                f"Its weights, gradients and momentum take {self.weight_bytes(step) / GIB:.2f} GiB."
            )
        fixed, per_item = self.fit_line(step)
        n = (budget - fixed) / per_item
        if n < 2 and fixed + 2 * per_item > (1 + NEAR) * budget:
            return n
        return max(n, 2.0) if self.simulate(step, 2) <= budget else min(n, 1.99)

    def find_batch(self, step: StepSizes, budget: int, at_most: int) -> int:
        """Return the largest batch up to `at_most` whose simulation fits into `budget`; 0 if less than 2."""
        batch = min(at_most, int(self.largest_batch(step, budget)))
        while batch >= 2 and self.simulate(step, batch) > budget:
            batch -= 1
        return batch if batch >= 2 else 0


NEAR = 0.01  # of the budget: where the line is closer, a simulation decides; its error was up to 0.1 %


def _key(topology: Mapping[str, Any]) -> str:
    return json.dumps(topology, sort_keys=True, default=int)
