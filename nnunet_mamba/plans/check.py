"""Whether a plans file is sound, and which networks it can train, before a GPU is asked.

Every configuration is resolved with nnU-Net's PlansManager, and on it every network is built on torch's meta
device and taken through a training step of fake tensors, which tells the grids of its outputs and its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from nnunet_mamba.memory.estimate import estimate_network
from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import create_network, get_config, list_networks
from nnunet_mamba.nnunet.catalogue import FAMILY, NO_SSM
from nnunet_mamba.plans.architecture import ENCODER_DEPTHS, named_network, network_sizes
from nnunet_mamba.plans.files import resolve

NEEDED = ("data_identifier", "batch_size", "patch_size", "spacing", "normalization_schemes", "architecture")
Grid = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A network on a configuration: parameters and peak bytes of a training step, or why not."""

    network: str
    parameters: int = 0
    memory_bytes: int = 0
    n_outputs: int = 0
    refusal: str = ""


def faults(plans: Mapping[str, Any], file_stem: str) -> list[str]:
    """What is wrong with plans in a file of this name, whatever the network; a sentence each."""
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
        found += [f"{configuration}: {fault}" for fault in configuration_faults(plans, resolved)]
    return found


def configuration_faults(plans: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[str]:
    """What is wrong with one resolved configuration."""
    if missing := [key for key in NEEDED if key not in resolved]:
        return [f"it has no {', '.join(missing)}."]
    found = _intensity_faults(plans, resolved["normalization_schemes"])
    kwargs, patch = resolved["architecture"].get("arch_kwargs", {}), resolved["patch_size"]
    if len(patch) != len(resolved["spacing"]):
        found.append(f"patch {patch} and spacing {resolved['spacing']} differ in axes.")
    if "strides" not in kwargs:
        return [*found, "architecture.arch_kwargs has no strides, where nnU-Net reads its scales."]
    return found + _stage_faults(kwargs, patch)


def _intensity_faults(plans: Mapping[str, Any], schemes: Sequence[str]) -> list[str]:
    known = plans.get("foreground_intensity_properties_per_channel", {})
    return [
        f"channel {channel} has CTNormalization, but the plans have no foreground_intensity_properties of it."
        for channel, scheme in enumerate(schemes)
        if scheme == "CTNormalization" and str(channel) not in known
    ]


def _stage_faults(kwargs: Mapping[str, Any], patch: Sequence[int]) -> list[str]:
    """Of strides and what must go with them."""
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


def rows(
    resolved: Mapping[str, Any],
    channels: int,
    classes: int,
    profile: Profile,
    networks: Sequence[str] | None = None,
) -> Iterator[Row]:
    """The plan's own network, then those named (None: all of this package), on a resolved configuration."""
    own = named_network(resolved["architecture"])
    if own is None:
        yield _row(resolved["architecture"]["network_class_name"], resolved, channels, classes, profile)
    names = list_networks() if networks is None else list(networks)
    for name in ([own] if own else []) + [name for name in names if name != own]:
        yield _row(name, resolved, channels, classes, profile)


def _row(name: str, resolved: Mapping[str, Any], channels: int, classes: int, profile: Profile) -> Row:
    sizes = {"input_channels": channels, "num_classes": classes, "patch_size": tuple(resolved["patch_size"])}
    if (axes := _axes(name)) and len(resolved["patch_size"]) not in axes:
        return Row(name, refusal=f"This network works in {' and '.join(f'{n}D' for n in axes)} only")
    try:
        network = _build(name, resolved, channels, classes)
        result = estimate_network(network, sizes, batch=resolved["batch_size"], profile=profile)
        _require_nnunets_grids(result.outputs, expected_grids(name, resolved))
    except (ImportError, RuntimeError, TypeError, ValueError) as error:  # of any network that plans can name
        return Row(name, refusal=str(error).splitlines()[0].split(". ")[0])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Row(name, parameters, sum(result.memory_bytes.values()), len(result.outputs))


def _axes(name: str) -> tuple[int, ...]:
    """The numbers of axes that a network of this package takes, also as its paper's without SSM."""
    network = FAMILY.get(name.removesuffix(NO_SSM))
    return network.ndims if network else ()


def _build(name: str, resolved: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """A network on the meta device: as nnU-Net builds it where the plan names it, as our trainers do else."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    architecture = resolved["architecture"]
    with torch.device("meta"):
        if name in (architecture["network_class_name"], named_network(architecture)):
            network: nn.Module = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                channels,
                classes,
                deep_supervision=True,
            )
            return network
        sizes = network_sizes(name, ConfigurationManager(dict(resolved)))
        return create_network(
            name, input_channels=channels, num_classes=classes, deep_supervision=True, **sizes
        )


def expected_grids(name: str, resolved: Mapping[str, Any]) -> list[Grid]:
    """The grids of nnU-Net's targets, the largest first: of the plan's strides or, where a trainer of ours
    brings a network of its own topology, of that network's outputs."""
    patch, strides = resolved["patch_size"], resolved["architecture"]["arch_kwargs"]["strides"]
    config = get_config(name) if name in list_networks() else None
    if isinstance(config, FixedConfig) and name != named_network(resolved["architecture"]):
        return [tuple(round(size / step) for size in patch) for step in config.output_strides]
    totals = [
        [prod(axis) for axis in zip(*strides[: stage + 1], strict=True)] for stage in range(len(strides))
    ]
    scales = totals[:-1] or totals
    return [tuple(round(s / step) for s, step in zip(patch, total, strict=True)) for total in scales]


def _require_nnunets_grids(outputs: Sequence[Grid], expected: Sequence[Grid]) -> None:
    """A network may supervise fewer resolutions than nnU-Net offers, but none that it does not."""
    if list(outputs) != list(expected[: len(outputs)]):
        raise ValueError(
            f"Its outputs have the grids {list(outputs)}, but nnU-Net's targets for these strides "
            f"{list(expected)}. Correct strides in architecture.arch_kwargs."
        )
