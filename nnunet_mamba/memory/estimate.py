"""Estimates of the peak memory of a network's training step on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nnunet_mamba.memory.live_memory import TRANSIENT, WORKSPACE
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.memory.simulate import BATCH, KEPT, LOSS, WEIGHTS, SimulatedStep, simulate
from nnunet_mamba.networks.family import create_network


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a training step.

    parts    name -> bytes at the peak
    outputs  grids of the supervised outputs, the largest first
    """

    parts: dict[str, int]
    outputs: tuple[tuple[int, ...], ...]

    @property
    def peak_bytes(self) -> int:
        return sum(self.parts.values())


def estimate_memory(
    name: str,
    sizes: Mapping[str, Any],
    *,
    batch: int,
    profile: Profile,
    precision: str | None = None,
    checkpoint_stages: int | str = 0,
) -> MemoryEstimate:
    """Estimate the training step, with deep supervision, of a network by name.

    Args:
        sizes: of `create_network`, patch_size among them.
        precision: fp32 or fp16; None: the profile's.
    """
    with torch.device("meta"):
        network = create_network(name, **sizes, deep_supervision=True, checkpoint_stages=checkpoint_stages)
    return estimate_module_memory(network, sizes, batch=batch, profile=profile, precision=precision)


def estimate_module_memory(
    network: nn.Module,
    sizes: Mapping[str, Any],
    *,
    batch: int,
    profile: Profile,
    precision: str | None = None,
) -> MemoryEstimate:
    """Estimate the training step of a network that was built on torch's meta device.

    Args:
        sizes: input_channels, num_classes and patch_size.
    """
    step = simulate(
        network,
        batch=batch,
        channels=sizes["input_channels"],
        classes=sizes["num_classes"],
        patch=sizes["patch_size"],
        precision=precision or profile.precision,
        workspace=profile.workspace or None,
        # fake tensors on CUDA need a GPU, for autograd queries the device
        device="cuda" if profile.device == "cuda" and torch.cuda.is_available() else "cpu",
        backend=profile.backend,
    )
    return MemoryEstimate(_name_parts(step, profile), step.outputs)


def _name_parts(step: SimulatedStep, profile: Profile) -> dict[str, int]:
    """Return the parts of the peak, in bytes."""
    peak = step.peak
    return {
        "weights, gradients, momentum": peak[WEIGHTS],
        "activations kept for backward": peak[KEPT],
        "batch and loss": peak[BATCH] + peak[LOSS],
        "passing through at the peak": peak[TRANSIENT],
        "workspace of operators": peak[WORKSPACE],
        "code and process": profile.overhead_bytes + step.kernels * profile.kernel_bytes,
    }
