"""Templates, networks and budgets applied to the plans that nnU-Net made for a dataset.

The settings of preprocessing (spacing, normalisation, reader, transposition, data_identifier) stay, so data
that were preprocessed for the dataset's plans serve the new ones too. The original of a configuration that
changes is kept as `<name>_planned`; the new one inherits all but patch, batch and architecture from it.
nnU-Net merges one level deep, so the architecture is repeated whole.

nnU-Net plans for a GPU of 8 GB. A template with a budget (voxels per patch, patches per batch, features) is
for a smaller computer; the topology follows from the smaller patch by nnU-Net's own rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from nnunet_mamba.networks.default_sizes import default_features
from nnunet_mamba.networks.family import supported_ndims
from nnunet_mamba.nnunet.templates import TOPOLOGY, Template
from nnunet_mamba.plans.architecture import check_sizes, replace_network, resize_architecture
from nnunet_mamba.plans.files import check_plans_name, resolve
from nnunet_mamba.plans.memory import GIB, StepMemory, StepSizes
from nnunet_mamba.plans.topology import fit_patch, plan_topology, shorten_patch

CUT_KEYS = ("patch_size", "batch_size", "architecture")
MIN_FILLED = 0.5  # share of a patch that the median image should fill
PLANNED = "_planned"  # suffix of a configuration as nnU-Net planned it


@dataclass(frozen=True)
class ConfigurationChange:
    """New patch, batch and architecture of a configuration.

    architecture  nnU-Net's block
    warning       a sentence on sizes that are probably not intended
    """

    patch: tuple[int, ...]
    batch: int
    architecture: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class AppliedTemplate:
    """Result of applying a template.

    plans      content of the new file
    changed    configuration -> its new sizes
    notes      sentences for the user
    """

    plans: dict[str, Any]
    changed: Mapping[str, ConfigurationChange] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def apply_template(
    plans: Mapping[str, Any],
    template: Template,
    name: str,
    *,
    network: str | None = None,
    memory: StepMemory | None = None,
    budget: int | None = None,
    fit_images: bool = False,
) -> AppliedTemplate:
    """Apply a template to the plans of a dataset, as new plans `name`.

    Args:
        network: one of ours, named in the architecture by its dotted path; None: keep the dataset's.
        memory, budget: make batch and then patch smaller until a step takes at most `budget` bytes by
            `memory`.
        fit_images: crop a patch to the median image where it is longer, with nnU-Net's topology for it.

    Raises ValueError if the template fits no configuration of the dataset.
    """
    check_plans_name(name)
    targets, notes = _targets(plans, template, network)
    changed = {}
    for target in targets:
        own = resolve(plans, target)
        change = _apply_to(own, template, target, fit_images=fit_images)
        if memory is not None and budget is not None:
            change = fit_to_memory(change, own["spacing"], memory, budget)
        if network is not None:
            architecture = replace_network(change.architecture, network, change.patch)
            change = replace(change, architecture=architecture)
        changed[target] = change
    return AppliedTemplate(_with_changes(plans, name, changed), changed, tuple(notes))


def _targets(
    plans: Mapping[str, Any], template: Template, network: str | None
) -> tuple[list[str], list[str]]:
    """Return the names of the configurations to change, and a note on each that cannot be changed."""
    configurations = plans["configurations"]
    wanted = list(template.configurations) or [name for name in configurations if _is_own(plans, name)]
    targets, notes = [], []
    for name in wanted:
        if name not in configurations:
            notes.append(f"{name}: the dataset has no such configuration.")
        elif network is not None and len(resolve(plans, name)["patch_size"]) not in supported_ndims(network):
            axes = " or ".join(f"{n}D" for n in supported_ndims(network))
            notes.append(f"{name}: {network} works in {axes}; left as it was planned.")
        else:
            targets.append(name)
    if not targets:
        raise ValueError(
            f"Template {template.name} cannot be applied to {plans.get('dataset_name')}, which has "
            f"{', '.join(configurations)}. {' '.join(notes)} Choose a template or a network for these."
        )
    return targets, notes


def _is_own(plans: Mapping[str, Any], name: str) -> bool:
    """Return True if a configuration has its own patch, batch or architecture, and is not the original of
    another."""
    own = plans["configurations"][name]
    inherits = "inherits_from" in own and not any(key in own for key in CUT_KEYS)
    is_original = name.endswith(PLANNED) and name.removesuffix(PLANNED) in plans["configurations"]
    return not inherits and not is_original


def _apply_to(
    own: Mapping[str, Any], template: Template, name: str, *, fit_images: bool
) -> ConfigurationChange:
    """Return the sizes of a resolved configuration under a template."""
    if template.budget:
        small = cut_to_budget(own, template.budget[f"{len(own['patch_size'])}d"])
        return ConfigurationChange(tuple(small["patch_size"]), small["batch_size"], small["architecture"])
    pinned = template.configurations[name]
    patch = tuple(pinned.get("patch_size", own["patch_size"]))
    batch = pinned.get("batch_size", own["batch_size"])
    if "patch_size" not in pinned:
        return ConfigurationChange(patch, batch, deepcopy(own["architecture"]))
    check_sizes(own["architecture"]["arch_kwargs"])
    within, warning = _within_image(patch, own), ""
    filled = prod(within) / prod(patch)
    if fit_images and within != patch:
        fitted = _with_topology(ConfigurationChange(within, batch, own["architecture"]), own["spacing"])
        return replace(fitted, notes=(f"patch {list(patch)} -> {list(fitted.patch)}, as the images are",))
    if filled < MIN_FILLED:
        fitted = _with_topology(ConfigurationChange(within, batch, own["architecture"]), own["spacing"])
        image = "x".join(str(round(size)) for size in own["median_image_size_in_voxels"])
        warning = (
            f"the template's patch of {'x'.join(map(str, patch))} is much larger than the images: the median "
            f"one, {image} voxels, fills {filled:.0%} of it; the rest is padding and costs memory and time. "
            f"--fit-images takes {'x'.join(map(str, fitted.patch))} instead."
        )
    if "strides" in pinned:
        strides, kernels, channels = (pinned[key] for key in TOPOLOGY)
        architecture = resize_architecture(own["architecture"], patch, strides, kernels, channels)
        return ConfigurationChange(patch, batch, architecture, warning=warning)
    return replace(
        _with_topology(ConfigurationChange(patch, batch, own["architecture"]), own["spacing"]),
        warning=warning,
    )


def _within_image(patch: tuple[int, ...], own: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the part of a patch that the median image fills, the patch if the plans do not have its size."""
    image = own.get("median_image_size_in_voxels", patch)
    return tuple(min(size, round(extent)) for size, extent in zip(patch, image, strict=True))


def _with_topology(change: ConfigurationChange, spacing: list[float]) -> ConfigurationChange:
    """Return a copy with nnU-Net's topology for its patch, which is padded to a multiple of the strides."""
    strides, kernels, padded = plan_topology(spacing, change.patch)
    channels = default_features(len(strides), len(padded))
    architecture = resize_architecture(change.architecture, padded, strides, kernels, channels)
    return replace(change, patch=tuple(padded), architecture=architecture)


def fit_to_memory(
    change: ConfigurationChange, spacing: list[float], memory: StepMemory, budget: int
) -> ConfigurationChange:
    """Return a copy whose training step fits into `budget` bytes. ValueError if that is impossible.

    The batch becomes smaller, down to 2, then the patch shorter by nnU-Net's rule, with nnU-Net's topology.
    """
    fitted = change
    while not (batch := memory.find_batch(_step_sizes(memory, fitted), budget, max(fitted.batch, 2))):
        patch = shorten_patch(spacing, list(fitted.patch), change.patch)
        if patch is None:
            smallest = memory.simulate(_step_sizes(memory, fitted), 2)
            raise ValueError(
                f"{memory.network} takes {smallest / GIB:.1f} GiB for two "
                f"patches of {list(fitted.patch)}, the shortest, and the budget is {budget / GIB:.1f} GiB. "
                f"Choose a smaller network, or a card with more memory."
            )
        fitted = _with_topology(replace(fitted, patch=tuple(patch)), spacing)
    notes = [f"patch {list(change.patch)} -> {list(fitted.patch)}"] if fitted.patch != change.patch else []
    notes += [f"batch {change.batch} -> {batch}"] if batch != change.batch else []
    return replace(fitted, batch=batch, notes=(*change.notes, *notes))


def _step_sizes(memory: StepMemory, change: ConfigurationChange) -> StepSizes:
    """Return the sizes that determine the memory of a training step."""
    return memory.step_sizes(change.patch, change.architecture)


def _with_changes(
    plans: Mapping[str, Any], name: str, changed: Mapping[str, ConfigurationChange]
) -> dict[str, Any]:
    """Return a copy of the plans under another name, in which changed configurations inherit from their
    originals."""
    overlaid = {**deepcopy(dict(plans)), "plans_name": name}
    configurations = overlaid["configurations"]
    for target, change in changed.items():
        original = f"{target}{PLANNED}"
        if configurations[target].get("inherits_from") != original:
            configurations[original] = configurations[target]
        configurations[target] = {
            "inherits_from": original,
            "patch_size": list(change.patch),
            "batch_size": change.batch,
            "architecture": deepcopy(dict(change.architecture)),
        }
    return overlaid


def shrink_plans(plans: Mapping[str, Any], template: Template) -> dict[str, Any]:
    """Return a copy of nnU-Net `plans` whose configurations are within the budgets of `template`, by axes.

    Nothing grows: a configuration within the budget keeps its patch and batch, and shrinking twice equals
    shrinking once. A configuration that inherits patch, batch and architecture still does.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(deepcopy(dict(plans)))  # resolves `inherits_from`
    shrunk = deepcopy(dict(plans))
    for name, own in shrunk["configurations"].items():
        if "inherits_from" in own and not any(key in own for key in CUT_KEYS):
            continue
        resolved = manager.get_configuration(name).configuration
        own.update(cut_to_budget(resolved, template.budget[f"{len(resolved['patch_size'])}d"]))
    return shrunk


def cut_to_budget(configuration: Mapping[str, Any], budget: Mapping[str, int]) -> dict[str, Any]:
    """Return patch, batch and architecture of a resolved configuration, cut to `budget`."""
    spacing, architecture = configuration["spacing"], configuration["architecture"]
    check_sizes(architecture["arch_kwargs"])
    before = architecture["arch_kwargs"]["features_per_stage"]
    patch = fit_patch(spacing, configuration["patch_size"], budget["max_patch_vox"])
    strides, kernel_sizes, _ = plan_topology(spacing, patch)
    n_stages, base = min(len(strides), len(before)), min(budget["base_features"], before[0])
    features = [min(base * 2**stage, budget["max_features"]) for stage in range(n_stages)]
    return {
        "patch_size": patch,
        "batch_size": min(configuration["batch_size"], budget["max_batch_size"]),
        "architecture": resize_architecture(
            architecture, patch, strides[:n_stages], kernel_sizes[:n_stages], features
        ),
    }
