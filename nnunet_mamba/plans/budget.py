"""Plans for a small computer: the same data, a smaller patch, batch and network.

nnU-Net plans for a GPU of 8 GB. `shrink_plans` cuts each configuration to the budget of a template of
`plans_templates/` (voxels per patch, patches per batch, features) and plans the topology anew with nnU-Net's
own rule. Spacing, normalisation and data identifiers stay: data preprocessed for the one serve the other.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import prod
from typing import Any

from nnunet_mamba.resources import resource_dir

MIN_EDGE_VOX = 4  # nnU-Net's smallest feature map: the planner pools no axis below it
CUT_KEYS = ("patch_size", "batch_size", "architecture")


def load_template(name: str) -> dict[str, Any]:
    """The template `name` of `plans_templates/`: a budget per dimension ("2d", "3d").

    A budget holds `max_patch_vox`, `max_batch_size`, `base_features` (first stage), `max_features` (any).
    """
    folder = resource_dir("plans_templates")
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        raise ValueError(f"Unknown plans template {name!r}; choose one of {known}.")
    return json.loads(path.read_text())


def shrink_plans(plans: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nnU-Net `plans`, every configuration cut to the budget that `template` has for its dimension.

    Nothing grows: a configuration within the budget keeps its patch and batch, and shrinking twice equals
    shrinking once. A configuration that inherits patch, batch and architecture goes on inheriting them.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(deepcopy(dict(plans)))  # resolves `inherits_from`
    shrunk = deepcopy(dict(plans))
    for name, own in shrunk["configurations"].items():
        if "inherits_from" in own and not any(key in own for key in CUT_KEYS):
            continue
        resolved = manager.get_configuration(name).configuration
        own.update(_cut(resolved, template[f"{len(resolved['patch_size'])}d"]))
    return shrunk


def _cut(configuration: Mapping[str, Any], budget: Mapping[str, int]) -> dict[str, Any]:
    """Patch, batch and architecture of one resolved configuration within `budget`."""
    n_stages = len(configuration["architecture"]["arch_kwargs"]["features_per_stage"])
    patch = _fit_patch(configuration["spacing"], configuration["patch_size"], budget["max_patch_vox"])
    strides, kernel_sizes, _ = _topology(configuration["spacing"], patch)
    architecture = deepcopy(configuration["architecture"])
    architecture["arch_kwargs"].update(
        _cut_network(architecture["arch_kwargs"], strides[:n_stages], kernel_sizes[:n_stages], budget)
    )
    return {
        "patch_size": patch,
        "batch_size": min(configuration["batch_size"], budget["max_batch_size"]),
        "architecture": architecture,
    }


def _cut_network(
    network: Mapping[str, Any],
    strides: list[list[int]],
    kernel_sizes: list[list[int]],
    budget: Mapping[str, int],
) -> dict[str, Any]:
    """The entries of arch_kwargs that count stages or features, for the new topology."""
    n_stages = len(strides)
    base = min(budget["base_features"], network["features_per_stage"][0])
    per_stage = {
        "n_conv_per_stage": n_stages,
        "n_blocks_per_stage": n_stages,
        "n_conv_per_stage_decoder": n_stages - 1,
    }
    return {
        "n_stages": n_stages,
        "features_per_stage": [min(base * 2**stage, budget["max_features"]) for stage in range(n_stages)],
        "strides": strides,
        "kernel_sizes": kernel_sizes,
        **{
            key: list(network[key][:n])
            for key, n in per_stage.items()
            if isinstance(network.get(key), Sequence)
        },
    }


def _fit_patch(spacing: Sequence[float], patch: Sequence[int], max_vox: int) -> list[int]:
    """The patch, its relatively longest axis shortened step by step until it has at most `max_vox` voxels.

    nnU-Net's planner shortens the same way, so the aspect of the patch is kept as far as pooling allows. No
    axis is cut below the size that can be halved once; if every axis is that short, the patch stays above the
    budget.
    """
    original, fitted = list(patch), list(patch)
    while prod(fitted) > max_vox:
        shorter = _shorten(spacing, fitted, original)
        if shorter is None:
            break
        fitted = shorter
    return fitted


def _shorten(spacing: Sequence[float], patch: list[int], original: list[int]) -> list[int] | None:
    """`patch` with one axis one step shorter: the longest relative to `original` that has such a step."""
    by_length = sorted(range(len(patch)), key=lambda axis: (patch[axis] / original[axis], axis), reverse=True)
    for axis in by_length:
        for size in range(patch[axis] - 1, 2 * MIN_EDGE_VOX - 1, -1):
            shorter = [*patch[:axis], size, *patch[axis + 1 :]]
            if _topology(spacing, shorter)[2] == shorter:  # divisible by its strides without padding
                return shorter
    return None


def _topology(
    spacing: Sequence[float], patch: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Strides and kernel sizes per stage by nnU-Net's rule, and `patch` padded to a multiple of them."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernel_sizes, padded, _ = get_pool_and_conv_props(spacing, patch, MIN_EDGE_VOX, 999999)
    return [list(s) for s in strides], [list(k) for k in kernel_sizes], [int(size) for size in padded]
