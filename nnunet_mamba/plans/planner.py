"""nnU-Net's planner with the memory of our networks in its loop.

nnU-Net's planner makes the patch smaller until two of them fit and then enlarges the batch; what fits it asks
an estimate that is made for its own U-Net. Here the estimate is that of `StepMemory` against the budget of a
card. Spacing, preprocessing and the rules for patch and topology are nnU-Net's own.
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
from nnunet_mamba.nnunet.dataset_json import sorted_channels
from nnunet_mamba.plans.architecture import with_network
from nnunet_mamba.plans.files import check_plans_name, dataset_folder, read_json, write_plans
from nnunet_mamba.plans.memory import GIB, StepMemory, budget_bytes

DEFAULT = "nnUNetPlans"  # of nnU-Net's own planner
NO_MATTER = 0.5  # an estimate that never shrinks a patch, for a configuration that is dropped
PREPROCESSING = (  # what preprocessed data depend on
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_seg",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg_kwargs",
)


def default_name(network: str, vram_gb: float) -> str:
    """Such as nnUNetMambaPlans_24G_mm_unet."""
    return f"nnUNetMambaPlans_{vram_gb:g}G_{network}"


@dataclass(frozen=True)
class Planned:
    """plans         as nnU-Net reads them
    path          their file
    memory_bytes  configuration -> peak of a training step, simulated
    """

    plans: dict[str, Any]
    path: Path
    memory_bytes: Mapping[str, int]


def make_plans(
    dataset: str, network: str, vram_gb: float, profile: Profile, *, name: str | None = None, replace: bool
) -> Planned:
    """Plan a dataset, whose fingerprint nnU-Net has extracted, for a network on a card of `vram_gb` GiB.

    Raises ValueError if the network or the budget is impossible.
    """
    name = name or default_name(network, vram_gb)
    check_plans_name(name)
    budget_bytes(vram_gb)
    if name == DEFAULT:
        raise ValueError(f"{DEFAULT} are the plans of nnU-Net's own planner; choose another --name.")
    folder = dataset_folder(dataset)
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
    return Planned(plans, folder / f"{name}.json", planner.memory_bytes(plans))


class MambaPlanner(ExperimentPlanner):  # type: ignore[misc]
    """Plans for `network` with the peak memory of its training step.

    The numbers of the loop are chosen so that it compares items: with a reference of 1 for a batch of 1, an
    estimate of 1/n says that n items fit. nnU-Net shrinks the patch while n < 2 and takes a batch of n.
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
            plans_name or default_name(network, gpu_memory_target_in_gb),
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = 1
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = 1
        self.UNet_reference_val_corresp_GB = gpu_memory_target_in_gb
        self.network, self.replace = network, replace
        self.axes = supported_ndims(network)
        self.budget = budget_bytes(gpu_memory_target_in_gb)
        self.dataset_json: dict[str, Any] = _with_sorted_channels(self.dataset_json)
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
        """1/n, where n items of this patch fit into the budget. ValueError if no patch can ever fit."""
        patch = tuple(int(size) for size in patch_size)
        if len(patch) not in self.axes:
            return NO_MATTER
        self._refuse_dead_end(patch, len(arch_kwargs["strides"]))
        job = self.memory.job(patch, {"arch_kwargs": arch_kwargs})
        n = self._items(job)
        return 1 / (int(n) if n >= 2 else max(n, 1e-9))

    def _items(self, job: Any) -> float:
        try:
            return self.memory.largest_batch(job, self.budget)
        except ValueError as error:
            raise ValueError(self._too_large(str(error))) from error

    def _refuse_dead_end(self, patch: tuple[int, ...], n_stages: int) -> None:
        """nnU-Net's loop would shorten a patch to nothing, or go on for ever where it cannot."""
        if patch in self._tried or min(patch) < 1 or n_stages < 2:
            raise ValueError(self._too_large("It cannot be shortened any more."))
        self._tried.append(patch)

    def _too_large(self, reason: str) -> str:
        smallest = list(self._tried[-1]) if self._tried else "none"
        return (
            f"{self.network} does not fit into {self.budget / GIB:.2f} GiB, what is counted of "
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
        """nnU-Net's, with our network in it and a batch that its own simulation has confirmed."""
        self._tried.clear()
        plan: dict[str, Any] = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _Forgetful()
        )
        if len(spacing) in self.axes:
            job = self.memory.job(plan["patch_size"], plan["architecture"])
            plan["batch_size"] = self.memory.batch_that_fits(job, self.budget, int(plan["batch_size"]))
            if not plan["batch_size"]:
                raise ValueError(self._too_large("Its simulation takes more than was estimated."))
            plan["architecture"] = with_network(plan["architecture"], self.network, job.patch)
        return plan

    def memory_bytes(self, plans: Mapping[str, Any]) -> dict[str, int]:
        """Configuration of `plans` -> peak of a training step; without those that inherit theirs."""
        return {
            name: self.memory.exact(
                self.memory.job(own["patch_size"], own["architecture"]), own["batch_size"]
            )
            for name, own in plans["configurations"].items()
            if "patch_size" in own
        }

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Writes them, without the configurations that the network cannot work on."""
        recursive_fix_for_json_export(plans)
        plans["configurations"] = {
            name: own
            for name, own in plans["configurations"].items()
            if (2 if name == "2d" else 3) in self.axes
        }
        if not plans["configurations"]:
            raise ValueError(f"{self.network} works in 3D, and the images of {self.dataset_name} are 2D.")
        folder = dataset_folder(self.dataset_name)
        share_data(plans, folder)
        write_plans(folder, plans, replace=self.replace)


def _with_sorted_channels(description: dict[str, Any]) -> dict[str, Any]:
    """A dataset.json of which nnU-Net may pair the normalisation of channels by their order."""
    channels = description.get("channel_names") or description["modality"]
    return {**description, "channel_names": sorted_channels(channels, "dataset.json")}


class _Forgetful(dict[str, float]):
    """nnU-Net's cache, which would hide that it asks for the same patch again; `StepMemory` has its own."""

    def __setitem__(self, key: str, value: float) -> None:
        pass


def share_data(plans: dict[str, Any], folder: Path) -> None:
    """Let configurations use the data of nnU-Net's default plans, made or to be made, where preprocessing is
    the same; it is for 2d and 3d_fullres unless the default plans in `folder` say otherwise."""
    path = folder / f"{DEFAULT}.json"
    default = read_json(path, "Remove it.") if path.is_file() else None
    for name, own in plans["configurations"].items():
        if "inherits_from" in own:
            continue
        if default is None:
            same = name in ("2d", "3d_fullres")
        else:
            same = _same_data(plans, own, default, default.get("configurations", {}).get(name))
        if same:
            own["data_identifier"] = f"{DEFAULT}_{name}"


def _same_data(
    plans: Mapping[str, Any],
    own: Mapping[str, Any],
    default: Mapping[str, Any],
    other: Mapping[str, Any] | None,
) -> bool:
    whole = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
    return (
        other is not None
        and all(own.get(key) == other.get(key) for key in PREPROCESSING)
        and all(plans.get(key) == default.get(key) for key in whole)
    )
