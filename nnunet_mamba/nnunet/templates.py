"""Templates of `plans_templates/`: what papers fixed in their plans, and budgets for small computers.

A template is a JSON object with

    paper           whose, and the table or files that say so
    note            optional: what to know before comparing with the paper
    datasets        names of the datasets that it is for (none: for all)
    network         the paper's, by a name of `nnunet-mamba networks`

and one of

    configurations  "2d" or "3d_fullres" -> any of patch_size (voxels per axis, in the order of nnU-Net's
                    plans, the coarsest axis first), batch_size, and, together, strides and kernel_sizes (a
                    list per stage, full resolution first) and features_per_stage. Without these three the
                    topology is nnU-Net's for the patch; without a patch it is the dataset's.
    budget          "2d" and "3d" -> max_patch_vox (voxels of a patch), max_batch_size, base_features (of the
                    first stage), max_features (of any)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from nnunet_mamba.io.resources import template_file
from nnunet_mamba.nnunet.catalogue import FAMILY, NO_SSM, check_network

NDIM = {"2d": 2, "3d_fullres": 3}  # of the configurations that a template can name
TOPOLOGY = ("strides", "kernel_sizes", "features_per_stage")
BUDGET = frozenset(("max_patch_vox", "max_batch_size", "base_features", "max_features"))
KEYS = ("paper", "note", "datasets", "network", "configurations", "budget")


@dataclass(frozen=True)
class Template:
    """Template by its name; the fields are described above, empty where the file has none."""

    name: str
    paper: str
    datasets: tuple[str, ...]
    network: str
    note: str = ""
    configurations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budget: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def load_template(name: str) -> Template:
    """Return the template `name` of `plans_templates/`, or of a file (.json). ValueError for unknown
    names."""
    return read_template(template_file(name))


def read_template(path: Path) -> Template:
    """Read the template in a file. ValueError, with the first thing that is wrong, for other files."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    problem = _find_problem(content)
    if problem:
        raise ValueError(f"{path} is not a plans template: {problem} See nnunet_mamba.nnunet.templates.")
    return Template(path.stem, **{**content, "datasets": tuple(content["datasets"])})


def _find_problem(content: Any) -> str | None:
    """Return what is wrong with a template, in a sentence; None if nothing is."""
    if not isinstance(content, dict):
        return f"expected a JSON object, got {type(content).__name__}."
    if unknown := sorted(set(content) - set(KEYS)):
        return f"unknown key {', '.join(unknown)}; known are {', '.join(KEYS)}."
    if missing := [key for key in ("paper", "datasets", "network") if key not in content]:
        return f"it has no {', '.join(missing)}."
    if ("configurations" in content) == ("budget" in content):
        return "expected either configurations or a budget."
    if "budget" in content:
        return _find_budget_problem(content["budget"])
    for name, pinned in content["configurations"].items():
        if name not in NDIM:
            return f"configuration {name!r}; expected one of {', '.join(NDIM)}."
        if problem := _find_pinned_problem(pinned, NDIM[name]):
            return f"{name}: {problem}"
    return _find_network_problem(content["network"], content["configurations"])


def _find_network_problem(network: str, configurations: Mapping[str, Any]) -> str | None:
    try:
        check_network(network)
    except ValueError as error:
        return str(error)
    axes = FAMILY[network.removesuffix(NO_SSM)].ndims
    if any(NDIM[name] not in axes for name in configurations):
        return f"{network} works on {axes} axes, and the configurations are {', '.join(configurations)}."
    return None


def _find_budget_problem(budget: Any) -> str | None:
    if set(budget) != {"2d", "3d"} or any(set(part) != BUDGET for part in budget.values()):
        return f"a budget has 2d and 3d, each with {', '.join(sorted(BUDGET))}; got {budget}."
    if any(not _is_count(value) for part in budget.values() for value in part.values()):
        return f"a budget holds positive whole numbers; got {budget}."
    return None


def _find_pinned_problem(pinned: Mapping[str, Any], ndim: int) -> str | None:
    if unknown := sorted(set(pinned) - {"patch_size", "batch_size", *TOPOLOGY}):
        return f"unknown key {', '.join(unknown)}."
    if not _is_count(pinned.get("batch_size", 1)):
        return f"batch_size must be a positive whole number, got {pinned['batch_size']!r}."
    if "patch_size" in pinned and not _is_grid(pinned["patch_size"], ndim):
        return f"patch_size must be {ndim} positive whole numbers, got {pinned['patch_size']!r}."
    given = [key for key in TOPOLOGY if key in pinned]
    if given and (len(given) < len(TOPOLOGY) or "patch_size" not in pinned):
        return f"{', '.join(given)} without the rest of patch_size, {', '.join(TOPOLOGY)}."
    return _find_topology_problem(pinned, ndim) if given else None


def _find_topology_problem(pinned: Mapping[str, Any], ndim: int) -> str | None:
    n_stages = {key: len(pinned[key]) for key in TOPOLOGY}
    if len(set(n_stages.values())) != 1:
        return f"expected one entry per stage everywhere, got {n_stages}."
    for key in ("strides", "kernel_sizes"):
        if not all(_is_grid(entry, ndim) for entry in pinned[key]):
            return f"{key} must have {ndim} positive whole numbers per stage, got {pinned[key]}."
    total = [prod(axis) for axis in zip(*pinned["strides"], strict=True)]
    if any(size % stride for size, stride in zip(pinned["patch_size"], total, strict=True)):
        return f"patch {pinned['patch_size']} is not divisible by the total stride {total}."
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_grid(value: Any, ndim: int) -> bool:
    return isinstance(value, list) and len(value) == ndim and all(map(_is_count, value))
