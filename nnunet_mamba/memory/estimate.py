"""Estimates of memory and time of a network's training step on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.memory.simulate import BATCH, KEPT, LOSS, WEIGHTS, SimulatedStep, simulate
from nnunet_mamba.networks.family import create_network


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a training step.

    memory_bytes  parts of the peak
    seconds       parts of a step; None if the profile has no times in this precision
    outputs       grids of the supervised outputs, the largest first
    """

    memory_bytes: dict[str, int]
    seconds: dict[str, float] | None
    outputs: tuple[tuple[int, ...], ...]


def estimate(
    name: str,
    sizes: Mapping[str, Any],
    *,
    batch: int,
    profile: Profile,
    precision: str | None = None,
    checkpoint_stages: int | str = 0,
) -> Estimate:
    """Estimate the training step, with deep supervision, of a network by name.

    Args:
        sizes: of `create_network`, patch_size among them.
        precision: fp32 or fp16; None: the profile's.
    """
    with torch.device("meta"):
        network = create_network(name, **sizes, deep_supervision=True, checkpoint_stages=checkpoint_stages)
    return estimate_network(network, sizes, batch=batch, profile=profile, precision=precision)


def estimate_network(
    network: nn.Module,
    sizes: Mapping[str, Any],
    *,
    batch: int,
    profile: Profile,
    precision: str | None = None,
) -> Estimate:
    """Estimate the training step of a network that was built on torch's meta device.

    Args:
        sizes: input_channels, num_classes and patch_size.
    """
    precision = precision or profile.precision
    step = simulate(
        network,
        batch=batch,
        channels=sizes["input_channels"],
        classes=sizes["num_classes"],
        patch=sizes["patch_size"],
        precision=precision,
        workspace=profile.workspace or None,
        # fake tensors on CUDA need a GPU, for autograd queries the device
        device="cuda" if profile.device == "cuda" and torch.cuda.is_available() else "cpu",
        backend=profile.backend,
    )
    timed = bool(profile.seconds) and precision == profile.precision
    return Estimate(_memory_parts(step, profile), profile.times(step.work) if timed else None, step.outputs)


def _memory_parts(step: SimulatedStep, profile: Profile) -> dict[str, int]:
    """Return the parts of the peak, in bytes."""
    peak = step.peak
    return {
        "weights, gradients, momentum": peak[WEIGHTS],
        "activations kept for backward": peak[KEPT],
        "batch and loss": peak[BATCH] + peak[LOSS],
        "passing through at the peak": peak["transient"],
        "workspace of operators": peak["workspace"],
        "code and process": profile.overhead_bytes + step.kernels * profile.kernel_bytes,
    }
