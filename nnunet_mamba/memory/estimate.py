"""Networks by name and sizes -> their step on a device of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.memory.simulate import BATCH, KEPT, LOSS, WEIGHTS, Step, simulate
from nnunet_mamba.networks.family import create_network


@dataclass(frozen=True)
class Estimate:
    """memory_bytes  parts of the peak
    seconds       parts of a step; None where the profile has not measured it in this precision
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
    """The training step, with deep supervision, of a network by name.

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
    """The training step of a network that was built on torch's meta device.

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
        scratch=profile.scratch or None,
        # a GPU that is not there cannot even be imitated: autograd asks for it
        device="cuda" if profile.device == "cuda" and torch.cuda.is_available() else "cpu",
        backend=profile.backend,
    )
    timed = bool(profile.seconds) and precision == profile.precision
    return Estimate(_memory(step, profile), profile.times(step.work) if timed else None, step.outputs)


def _memory(step: Step, profile: Profile) -> dict[str, int]:
    peak = step.peak
    return {
        "weights, gradients, momentum": peak[WEIGHTS],
        "activations kept for backward": peak[KEPT],
        "batch and loss": peak[BATCH] + peak[LOSS],
        "passing through at the peak": peak["transient"],
        "scratch of operators": peak["scratch"],
        "code and process": profile.overhead_bytes + step.kernels * profile.kernel_bytes,
    }
