"""A template, a network and a budget laid over the plans that nnU-Net made for a dataset.

What preprocessing depends on (spacing, normalisation, reader, transposition, data_identifier) stays, so data
that were preprocessed for the dataset's plans serve the others unchanged. A configuration that changes keeps
its own self as `<name>_planned` and inherits all but patch, batch and architecture from it. nnU-Net merges
one level deep, so an architecture is repeated whole.
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
from nnunet_mamba.plans.architecture import require_sizes, resized, with_network
from nnunet_mamba.plans.budget import CUT_KEYS, cut
from nnunet_mamba.plans.files import check_plans_name, resolve
from nnunet_mamba.plans.memory import GIB, StepMemory
from nnunet_mamba.plans.topology import shorten, topology

HALF = 0.5  # of a patch, which the median image should fill
PLANNED = "_planned"  # behind the name of a configuration as nnU-Net planned it


@dataclass(frozen=True)
class Choice:
    """What an overlay sets in one configuration; `architecture` is nnU-Net's block, `warning` a sentence on
    what the user will hardly want."""

    patch: tuple[int, ...]
    batch: int
    architecture: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class Overlay:
    """plans      the whole new file
    changed    configuration -> what it holds now
    notes      what the user should know, a sentence each
    """

    plans: dict[str, Any]
    changed: Mapping[str, Choice] = field(default_factory=dict)
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
) -> Overlay:
    """The plans `name`: those of a dataset with a template over them.

    Args:
        network: of ours, named in the architecture by its dotted path; None: the dataset's stays there.
        memory, budget: make batch and then patch smaller until `memory` says that a step fits into `budget`
            bytes.
        fit_images: cut a patch to the median image where it is longer, with nnU-Net's topology for it.

    Raises ValueError if no configuration of the dataset takes the template.
    """
    check_plans_name(name)
    targets, notes = _targets(plans, template, network)
    changed = {}
    for target in targets:
        own = resolve(plans, target)
        choice = _choose(own, template, target, fit_images=fit_images)
        if memory is not None and budget is not None:
            choice = fit(choice, own["spacing"], memory, budget)
        if network is not None:
            architecture = with_network(choice.architecture, network, choice.patch)
            choice = replace(choice, architecture=architecture)
        changed[target] = choice
    return Overlay(_overlaid(plans, name, changed), changed, tuple(notes))


def _targets(
    plans: Mapping[str, Any], template: Template, network: str | None
) -> tuple[list[str], list[str]]:
    """Names of the configurations to change, and a note on each that cannot be changed."""
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
    """Whether a configuration has patch, batch or architecture of its own, and is not kept for another."""
    own = plans["configurations"][name]
    inherits = "inherits_from" in own and not any(key in own for key in CUT_KEYS)
    kept = name.endswith(PLANNED) and name.removesuffix(PLANNED) in plans["configurations"]
    return not inherits and not kept


def _choose(own: Mapping[str, Any], template: Template, name: str, *, fit_images: bool) -> Choice:
    """What a template makes of a resolved configuration."""
    if template.budget:
        small = cut(own, template.budget[f"{len(own['patch_size'])}d"])
        return Choice(tuple(small["patch_size"]), small["batch_size"], small["architecture"])
    pinned = template.configurations[name]
    patch = tuple(pinned.get("patch_size", own["patch_size"]))
    batch = pinned.get("batch_size", own["batch_size"])
    if "patch_size" not in pinned:
        return Choice(patch, batch, deepcopy(own["architecture"]))
    require_sizes(own["architecture"]["arch_kwargs"])
    within, warning = _within_image(patch, own), ""
    filled = prod(within) / prod(patch)
    if fit_images and within != patch:
        fitted = _replanned(Choice(within, batch, own["architecture"]), own["spacing"])
        return replace(fitted, notes=(f"patch {list(patch)} -> {list(fitted.patch)}, as the images are",))
    if filled < HALF:
        fitted = _replanned(Choice(within, batch, own["architecture"]), own["spacing"])
        image = "x".join(str(round(size)) for size in own["median_image_size_in_voxels"])
        warning = (
            f"the template's patch of {'x'.join(map(str, patch))} dwarfs the images: the median one, {image} "
            f"voxels, fills {filled:.0%} of it; the rest is padding, which costs memory and time. "
            f"--fit-images takes {'x'.join(map(str, fitted.patch))} instead."
        )
    if "strides" in pinned:
        strides, kernels, channels = (pinned[key] for key in TOPOLOGY)
        architecture = resized(own["architecture"], patch, strides, kernels, channels)
        return Choice(patch, batch, architecture, warning=warning)
    return replace(_replanned(Choice(patch, batch, own["architecture"]), own["spacing"]), warning=warning)


def _within_image(patch: tuple[int, ...], own: Mapping[str, Any]) -> tuple[int, ...]:
    """The part of a patch that the dataset's median image fills, where the plans tell its size."""
    image = own.get("median_image_size_in_voxels", patch)
    return tuple(min(size, round(extent)) for size, extent in zip(patch, image, strict=True))


def _replanned(choice: Choice, spacing: list[float]) -> Choice:
    """A choice with nnU-Net's topology for its patch, which is padded to fit it."""
    strides, kernels, padded = topology(spacing, choice.patch)
    channels = default_features(len(strides), len(padded))
    architecture = resized(choice.architecture, padded, strides, kernels, channels)
    return replace(choice, patch=tuple(padded), architecture=architecture)


def fit(choice: Choice, spacing: list[float], memory: StepMemory, budget: int) -> Choice:
    """A choice whose training step fits into `budget` bytes: its batch down to 2, then its patch shortened by
    nnU-Net's rule, with nnU-Net's topology for the shorter one. ValueError if the shortest is too large."""
    fitted = choice
    while not (batch := memory.batch_that_fits(_job(memory, fitted), budget, max(fitted.batch, 2))):
        patch = shorten(spacing, list(fitted.patch), choice.patch)
        if patch is None:
            raise ValueError(
                f"{memory.network} takes {memory.exact(_job(memory, fitted), 2) / GIB:.1f} GiB for two "
                f"patches of {list(fitted.patch)}, the shortest, and the budget is {budget / GIB:.1f} GiB. "
                f"Choose a smaller network, or a card with more memory."
            )
        fitted = _replanned(replace(fitted, patch=tuple(patch)), spacing)
    notes = [f"patch {list(choice.patch)} -> {list(fitted.patch)}"] if fitted.patch != choice.patch else []
    notes += [f"batch {choice.batch} -> {batch}"] if batch != choice.batch else []
    return replace(fitted, batch=batch, notes=(*choice.notes, *notes))


def _job(memory: StepMemory, choice: Choice) -> Any:
    return memory.job(choice.patch, choice.architecture)


def _overlaid(plans: Mapping[str, Any], name: str, changed: Mapping[str, Choice]) -> dict[str, Any]:
    """A copy of the plans under another name, with some configurations replaced by heirs of themselves."""
    overlaid = {**deepcopy(dict(plans)), "plans_name": name}
    configurations = overlaid["configurations"]
    for target, choice in changed.items():
        kept = f"{target}{PLANNED}"
        if configurations[target].get("inherits_from") != kept:
            configurations[kept] = configurations[target]
        configurations[target] = {
            "inherits_from": kept,
            "patch_size": list(choice.patch),
            "batch_size": choice.batch,
            "architecture": deepcopy(dict(choice.architecture)),
        }
    return overlaid
