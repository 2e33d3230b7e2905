"""nnU-Net's planner with the memory of our networks in its loop.

nnU-Net's planner makes the patch smaller until two of them fit, and then the batch larger, by an estimate of
memory for its own U-Net. Here the estimate is `StepMemory`'s, compared with the budget of a GPU. Spacing,
preprocessing and the rules for patch and topology are nnU-Net's own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_mamba.memory.profile import Profile
from nnunet_mamba.networks.family import supported_ndims
from nnunet_mamba.nnunet.dataset_json import get_channels, sort_channels
from nnunet_mamba.nnunet.paths import find_dataset
from nnunet_mamba.nnunet.preprocessing import select_preprocessing
from nnunet_mamba.plans.architecture import replace_network
from nnunet_mamba.plans.files import check_plans_name, read_json_object, write_plans
from nnunet_mamba.plans.memory import GIB, StepMemory, budget_bytes

DEFAULT = "nnUNetPlans"  # of nnU-Net's own planner
EXTRACT = "nnUNetv2_extract_fingerprint -d ID makes it."
ALWAYS_FITS = 0.5  # an estimate that shrinks no patch, for configurations that are dropped


def default_plans_name(network: str, vram_gb: float) -> str:
    """Return a name such as nnUNetMambaPlans_24G_mm_unet."""
    return f"nnUNetMambaPlans_{vram_gb:g}G_{network}"


@dataclass(frozen=True)
class PlannedDataset:
    """New plans of a dataset.

    plans         as nnU-Net reads them
    path          their file
    memory_bytes  configuration -> simulated peak of a training step
    """

    plans: dict[str, Any]
    path: Path
    memory_bytes: Mapping[str, int]


def make_plans(
    dataset: str, network: str, vram_gb: float, profile: Profile, *, name: str | None = None, replace: bool
) -> PlannedDataset:
    """Plan a dataset, whose fingerprint nnU-Net has extracted, for a network on a GPU of `vram_gb` GiB.

    Raises ValueError if the network cannot be planned, or does not fit.
    """
    name = name or default_plans_name(network, vram_gb)
    check_plans_name(name)
    budget_bytes(vram_gb)
    if name == DEFAULT:
        raise ValueError(f"{DEFAULT} are the plans of nnU-Net's own planner; choose another --name.")
    folder = find_dataset("nnUNet_preprocessed", dataset, EXTRACT)
    try:
        with redirect_stdout(io.StringIO()):  # nnU-Net prints every configuration it tries
            planner = MambaPlanner(
                folder.name, vram_gb, plans_name=name, network=network, profile=profile, replace=replace
            )
            plans = planner.plan_experiment()
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(
            f"nnU-Net cannot plan {folder.name}: {error} Planning needs the raw dataset and its fingerprint: "
            f"nnUNetv2_extract_fingerprint -d ID."
        ) from error
    return PlannedDataset(plans, folder / f"{name}.json", planner.memory_bytes(plans))


class MambaPlanner(ExperimentPlanner):  # type: ignore[misc]
    """nnU-Net's planner that uses the peak memory of a training step of `network`.

    The reference values of nnU-Net's loop are set so that it counts items: with a reference of 1 for a batch
    of 1, an estimate of 1/n means that n items fit. nnU-Net shrinks the patch while n < 2, then takes n.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str | None = None,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        *,
        network: str,
        profile: Profile,
        replace: bool = False,
    ):
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name or default_plans_name(network, gpu_memory_target_in_gb),
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = 1
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = 1
        self.UNet_reference_val_corresp_GB = gpu_memory_target_in_gb
        self.network, self.replace = network, replace
        self.axes = supported_ndims(network)
        self.budget = budget_bytes(gpu_memory_target_in_gb)
        self.dataset_json: dict[str, Any] = _sort_channels(self.dataset_json)
        channels = self.dataset_json["channel_names"]
        labels = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        self.memory = StepMemory(network, len(channels), labels.num_segmentation_heads, profile)
        self._tried: list[tuple[int, ...]] = []  # patches of the configuration that is being planned

    def static_estimate_VRAM_usage(  # type: ignore[override]
        self,
        patch_size: Sequence[int],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: dict[str, Any],
        arch_kwargs_req_import: Sequence[str],
    ) -> float:
        """Return 1/n if n items of this patch fit into the budget. ValueError if no patch fits."""
        patch = tuple(int(size) for size in patch_size)
        if len(patch) not in self.axes:
            return ALWAYS_FITS
        self._check_progress(patch, len(arch_kwargs["strides"]))
        step = self.memory.step_sizes(patch, {"arch_kwargs": arch_kwargs})
        n = self._count_items(step)
        return 1 / (int(n) if n >= 2 else max(n, 1e-9))

    def _count_items(self, step: Any) -> float:
        try:
            return self.memory.largest_batch(step, self.budget)
        except ValueError as error:
            raise ValueError(self._too_large_message(str(error))) from error

    def _check_progress(self, patch: tuple[int, ...], n_stages: int) -> None:
        """Raise ValueError where nnU-Net's loop would shorten a patch to nothing, or not end."""
        if patch in self._tried or min(patch) < 1 or n_stages < 2:
            raise ValueError(self._too_large_message("It cannot be shortened any more."))
        self._tried.append(patch)

    def _too_large_message(self, reason: str) -> str:
        smallest = list(self._tried[-1]) if self._tried else "none"
        return (
            f"{self.network} does not fit into {self.budget / GIB:.2f} GiB, the counted part of "
            f"{self.UNet_vram_target_GB:g} GiB. The last patch tried is {smallest}. {reason} "
            f"Choose a smaller network, or a larger card."
        )

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float],
        median_shape: Sequence[int],
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, float],
    ) -> dict[str, Any]:
        """Return nnU-Net's configuration with our network, and a batch confirmed by its simulation."""
        self._tried.clear()
        plan: dict[str, Any] = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _NoCache()
        )
        if len(spacing) in self.axes:
            step = self.memory.step_sizes(plan["patch_size"], plan["architecture"])
            plan["batch_size"] = self.memory.find_batch(step, self.budget, int(plan["batch_size"]))
            if not plan["batch_size"]:
                raise ValueError(self._too_large_message("Its simulation takes more than was estimated."))
            plan["architecture"] = replace_network(plan["architecture"], self.network, step.patch)
        return plan

    def memory_bytes(self, plans: Mapping[str, Any]) -> dict[str, int]:
        """Return the peak bytes of a training step by configuration, without those that inherit theirs."""
        return {
            name: self.memory.simulate(
                self.memory.step_sizes(own["patch_size"], own["architecture"]), own["batch_size"]
            )
            for name, own in plans["configurations"].items()
            if "patch_size" in own
        }

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans, without the configurations that the network does not take."""
        recursive_fix_for_json_export(plans)
        plans["configurations"] = {
            name: own
            for name, own in plans["configurations"].items()
            if (2 if name == "2d" else 3) in self.axes
        }
        if not plans["configurations"]:
            raise ValueError(f"{self.network} works in 3D, and the images of {self.dataset_name} are 2D.")
        folder = find_dataset("nnUNet_preprocessed", self.dataset_name, EXTRACT)
        share_preprocessed_data(plans, folder)
        write_plans(folder, plans, replace=self.replace)


def _sort_channels(description: dict[str, Any]) -> dict[str, Any]:
    """Return a dataset.json with its channels in order, by which nnU-Net pairs them with normalisations."""
    return {**description, "channel_names": sort_channels(get_channels(description), "dataset.json")}


class _NoCache(dict[str, float]):
    """Cache that stores nothing: nnU-Net's would hide that a patch is estimated again. `StepMemory` has
    its own."""

    def __setitem__(self, key: str, value: float) -> None:
        pass


def share_preprocessed_data(plans: dict[str, Any], folder: Path) -> None:
    """Let configurations use the data of nnU-Net's default plans, present or future, if preprocessing is the
    same; it is for 2d and 3d_fullres unless the default plans in `folder` differ."""
    path = folder / f"{DEFAULT}.json"
    default = read_json_object(path, "Remove it.") if path.is_file() else None
    for name, own in plans["configurations"].items():
        if "inherits_from" in own:
            continue
        if default is None:
            same = name in ("2d", "3d_fullres")
        else:
            same = name in default.get("configurations", {}) and (
                select_preprocessing(plans, name) == select_preprocessing(default, name)
            )
        if same:
            own["data_identifier"] = f"{DEFAULT}_{name}"
