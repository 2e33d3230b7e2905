"""Checks of a plans file before training: whether it is valid, and which networks can train on it.

Every configuration is resolved with nnU-Net's PlansManager. Every network is built for it on torch's meta
device and runs a training step of fake tensors, which gives the grids of its outputs and its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from nnunet_mamba.memory.estimate import estimate_module_memory
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import get_config, list_networks
from nnunet_mamba.nnunet.catalogue import FAMILY, NO_SSM
from nnunet_mamba.plans.architecture import ENCODER_DEPTHS, build_network, get_network_name
from nnunet_mamba.plans.files import resolve

NEEDED = ("data_identifier", "batch_size", "patch_size", "spacing", "normalization_schemes", "architecture")
Grid = tuple[int, ...]


@dataclass(frozen=True)
class NetworkCheck:
    """Result for a network on a configuration: parameters and peak bytes of a training step, or the error."""

    network: str
    parameters: int = 0
    memory_bytes: int = 0
    n_outputs: int = 0
    error: str = ""


def find_issues(plans: Mapping[str, Any], file_stem: str) -> list[str]:
    """Return a sentence for each issue of plans in a file of this name, whatever the network."""
    name = plans.get("plans_name")
    found = []
    if name != file_stem:
        found.append(f"plans_name is {name!r}, but the file is {file_stem}.json; nnU-Net wants them equal.")
    for word in (file_stem, *plans["configurations"]):
        if "__" in word:
            found.append(f"{word!r} has a double underscore, at which nnU-Net splits folder names.")
    for configuration in plans["configurations"]:
        try:
            resolved = resolve(plans, configuration)
        except ValueError as error:
            found.append(str(error))
            continue
        found += [f"{configuration}: {issue}" for issue in find_configuration_issues(plans, resolved)]
    return found


def find_configuration_issues(plans: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each issue of a resolved configuration."""
    if missing := [key for key in NEEDED if key not in resolved]:
        return [f"it has no {', '.join(missing)}."]
    found = _find_intensity_issues(plans, resolved["normalization_schemes"])
    kwargs, patch = resolved["architecture"].get("arch_kwargs", {}), resolved["patch_size"]
    if len(patch) != len(resolved["spacing"]):
        found.append(f"patch {patch} and spacing {resolved['spacing']} differ in axes.")
    if "strides" not in kwargs:
        return [*found, "architecture.arch_kwargs has no strides, where nnU-Net reads its scales."]
    return found + _find_stage_issues(kwargs, patch)


def _find_intensity_issues(plans: Mapping[str, Any], schemes: Sequence[str]) -> list[str]:
    """Return a sentence for each channel whose normalisation lacks intensity properties."""
    known = plans.get("foreground_intensity_properties_per_channel", {})
    return [
        f"channel {channel} has CTNormalization, but the plans have no foreground_intensity_properties of it."
        for channel, scheme in enumerate(schemes)
        if scheme == "CTNormalization" and str(channel) not in known
    ]


def _find_stage_issues(kwargs: Mapping[str, Any], patch: Sequence[int]) -> list[str]:
    """Return a sentence for each issue of the strides and the other sizes per stage."""
    strides, found = kwargs["strides"], []
    n_stages = len(strides)
    lengths = {
        key: len(kwargs[key])
        for key in ("kernel_sizes", "features_per_stage", *ENCODER_DEPTHS)
        if isinstance(kwargs.get(key), Sequence)
    }
    if "n_stages" in kwargs:
        lengths["n_stages"] = kwargs["n_stages"]
    if wrong := {key: n for key, n in lengths.items() if n != n_stages}:
        found.append(f"strides have {n_stages} stages, but {wrong}.")
    if any(len(stride) != len(patch) for stride in strides):
        return [*found, f"strides {strides} are not all of the {len(patch)} axes of the patch."]
    total = [prod(axis) for axis in zip(*strides, strict=True)]
    if any(size % step for size, step in zip(patch, total, strict=True)):
        found.append(f"patch {list(patch)} is not divisible by the total stride {total}.")
    return found


def check_networks(
    resolved: Mapping[str, Any],
    channels: int,
    classes: int,
    profile: Profile,
    networks: Sequence[str] | None = None,
) -> Iterator[NetworkCheck]:
    """Check the plan's own network, then those named (None: all of this package), on a configuration."""
    own = get_network_name(resolved["architecture"])
    if own is None:
        yield _check_network(
            resolved["architecture"]["network_class_name"], resolved, channels, classes, profile
        )
    names = list_networks() if networks is None else list(networks)
    for name in ([own] if own else []) + [name for name in names if name != own]:
        yield _check_network(name, resolved, channels, classes, profile)


def _check_network(
    name: str, resolved: Mapping[str, Any], channels: int, classes: int, profile: Profile
) -> NetworkCheck:
    """Check one network on a resolved configuration."""
    sizes = {"input_channels": channels, "num_classes": classes, "patch_size": tuple(resolved["patch_size"])}
    if (axes := _known_axes(name)) and len(resolved["patch_size"]) not in axes:
        return NetworkCheck(name, error=f"This network works in {' and '.join(f'{n}D' for n in axes)} only")
    try:
        network = _build_on_meta(name, resolved, channels, classes)
        result = estimate_module_memory(network, sizes, batch=resolved["batch_size"], profile=profile)
        _check_output_grids(result.outputs, target_grids(name, resolved))
    except (ImportError, RuntimeError, TypeError, ValueError) as error:  # plans can name any network
        return NetworkCheck(name, error=str(error).splitlines()[0].split(". ")[0])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkCheck(name, parameters, result.peak_bytes, len(result.outputs))


def _known_axes(name: str) -> tuple[int, ...]:
    """Return the numbers of axes that a network of this package takes; of a twin those of its paper."""
    network = FAMILY.get(name.removesuffix(NO_SSM))
    return network.ndims if network else ()


def _build_on_meta(name: str, resolved: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """Build a network on the meta device: one of ours, or any that the plan names by its dotted path."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    architecture = resolved["architecture"]
    with torch.device("meta"):
        if name != architecture["network_class_name"]:
            manager = ConfigurationManager(dict(resolved))
            return build_network(name, manager, channels, classes, deep_supervision=True)
        network: nn.Module = get_network_from_plans(
            name,
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            classes,
            deep_supervision=True,
        )
        return network


def target_grids(name: str, resolved: Mapping[str, Any]) -> list[Grid]:
    """Return the grids of nnU-Net's targets, the largest first: from the plan's strides or, if a trainer of
    ours has a network of fixed topology, from that network's outputs."""
    patch, strides = resolved["patch_size"], resolved["architecture"]["arch_kwargs"]["strides"]
    config = get_config(name) if name in list_networks() else None
    if isinstance(config, FixedConfig) and name != get_network_name(resolved["architecture"]):
        return [tuple(round(size / step) for size in patch) for step in config.output_strides]
    totals = [
        [prod(axis) for axis in zip(*strides[: stage + 1], strict=True)] for stage in range(len(strides))
    ]
    scales = totals[:-1] or totals
    return [tuple(round(s / step) for s, step in zip(patch, total, strict=True)) for total in scales]


def _check_output_grids(outputs: Sequence[Grid], expected: Sequence[Grid]) -> None:
    """Raise ValueError unless the outputs have the grids of nnU-Net's first targets."""
    if list(outputs) != list(expected[: len(outputs)]):
        raise ValueError(
            f"Its outputs have the grids {list(outputs)}, but nnU-Net's targets for these strides "
            f"{list(expected)}. Correct strides in architecture.arch_kwargs."
        )
