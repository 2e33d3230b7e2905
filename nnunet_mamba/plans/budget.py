"""Plans for a small computer: the same data, a smaller patch, batch and network.

nnU-Net plans for a GPU of 8 GB. `shrink_plans` cuts each configuration to the budget of a template (voxels
per patch, patches per batch, features) and plans the topology anew with nnU-Net's own rule. Spacing,
normalisation and data identifiers stay: data preprocessed for the one serve the other.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nnunet_mamba.nnunet.templates import Template
from nnunet_mamba.plans.architecture import require_sizes, resized
from nnunet_mamba.plans.topology import fit_patch, topology

CUT_KEYS = ("patch_size", "batch_size", "architecture")


def shrink_plans(plans: Mapping[str, Any], template: Template) -> dict[str, Any]:
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
        own.update(cut(resolved, template.budget[f"{len(resolved['patch_size'])}d"]))
    return shrunk


def cut(configuration: Mapping[str, Any], budget: Mapping[str, int]) -> dict[str, Any]:
    """Patch, batch and architecture of one resolved configuration within `budget`."""
    spacing, architecture = configuration["spacing"], configuration["architecture"]
    require_sizes(architecture["arch_kwargs"])
    before = architecture["arch_kwargs"]["features_per_stage"]
    patch = fit_patch(spacing, configuration["patch_size"], budget["max_patch_vox"])
    strides, kernel_sizes, _ = topology(spacing, patch)
    n_stages, base = min(len(strides), len(before)), min(budget["base_features"], before[0])
    features = [min(base * 2**stage, budget["max_features"]) for stage in range(n_stages)]
    return {
        "patch_size": patch,
        "batch_size": min(configuration["batch_size"], budget["max_batch_size"]),
        "architecture": resized(architecture, patch, strides[:n_stages], kernel_sizes[:n_stages], features),
    }
