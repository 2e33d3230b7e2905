"""A trained network out of nnU-Net's checkpoint alone, and a patch of an image as nnU-Net prepares it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.networks.finite import check_finite, guard_output, tensors_of

NEEDED = ("network_weights", "init_args", "trainer_name")


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode on the CPU, and nnU-Net's view of its plans."""

    trainer: str
    network: nn.Module
    plans: Any  # PlansManager
    configuration: Any  # ConfigurationManager
    dataset_json: dict[str, Any]
    n_channels: int


@dataclass(frozen=True)
class Patch:
    """What the network gets, and where it was in the image. Voxels are (z, y, x) as nnU-Net's reader has
    them, places are indices of the patch; `axes` are the image's axes that become those of the data, in
    which `corner` is the patch's first voxel (of 2D networks: also its slice)."""

    data: Tensor  # (1, C, *grid)
    axes: tuple[int, ...]
    cropped: tuple[int, ...]  # first voxel kept, per data axis
    scale: tuple[float, ...]  # voxels of the data per voxel of the image
    corner: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.data.shape[2:])

    def place(self, voxel: Sequence[int]) -> tuple[int, ...]:
        """Of a voxel of the image in the patch. ValueError if it is not there."""
        inside = tuple(
            at - first
            for at, first in zip(
                in_data(voxel, self.axes, self.cropped, self.scale), self.corner, strict=True
            )
        )
        grid = (1,) * (3 - len(self.grid)) + self.grid
        if any(not 0 <= at < size for at, size in zip(inside, grid, strict=True)):
            raise ValueError(
                f"The voxel {tuple(voxel)} lies outside of the patch, which holds {self.extent()}; choose "
                "another one, or another --centre."
            )
        return inside[-len(self.grid) :]

    def extent(self) -> str:
        """The image's voxels in it, per axis, for messages."""
        grid = (1,) * (3 - len(self.grid)) + self.grid
        said = {}
        for k, axis in enumerate(self.axes):
            ends = (self.corner[k], self.corner[k] + grid[k] - 1)
            first, last = (int((end + 0.5) / self.scale[k]) + self.cropped[k] for end in ends)
            said["zyx"[axis]] = f"{'zyx'[axis]} {max(first, 0)} to {last}"
        return ", ".join(said[axis] for axis in "zyx")


def in_data(
    voxel: Sequence[int], axes: Sequence[int], cropped: Sequence[int], scale: Sequence[float]
) -> tuple[int, ...]:
    """Where a voxel of the image is after nnU-Net's transposing, cropping and resampling."""
    return tuple(
        int(np.floor((voxel[axis] - first + 0.5) * ratio))
        for axis, first, ratio in zip(axes, cropped, scale, strict=True)
    )


def read_trained(checkpoint: Path) -> Trained:
    """Build the network as its trainer does, and load its weights, all of them.

    The file is read without running code of its own. ValueError for what is no checkpoint of nnU-Net, for
    trainers of other packages, and for weights that do not fit or are not finite.
    """
    content = load_restricted(checkpoint)
    missing = [key for key in NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(
            f"{checkpoint} lacks {', '.join(missing)}; expected a checkpoint that nnU-Net wrote, such as "
            "checkpoint_final.pth. (Weights of other repositories: nnunet-mamba import-checkpoint.)"
        )
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    given = content["init_args"]
    plans, name = PlansManager(given["plans"]), str(content["trainer_name"])
    configuration = plans.get_configuration(given["configuration"])
    n_channels = determine_num_input_channels(plans, configuration, given["dataset_json"])
    n_heads = plans.get_label_manager(given["dataset_json"]).num_segmentation_heads
    network = network_of(name, plans, configuration, n_channels, n_heads)
    try:
        network.load_state_dict(content["network_weights"])
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {checkpoint} do not fit the network of {name} on its plans: {error}"
        ) from error
    check_finite(tensors_of(network), checkpoint, "There is nothing to look into; take another checkpoint.")
    return Trained(name, network.eval(), plans, configuration, given["dataset_json"], n_channels)


def network_of(trainer: str, plans: Any, configuration: Any, n_channels: int, n_heads: int) -> nn.Module:
    """As the trainer builds it, if it is one of this package or derives from one; for other trainers, the
    network of this package that their plans name. What plans of strangers name beside is not imported."""
    from nnunet_mamba import trainers
    from nnunet_mamba.networks.family import create_network
    from nnunet_mamba.plans.architecture import named_network
    from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer

    found = getattr(trainers, trainer) if trainer in trainers.__all__ else _look_up(trainer)
    if found is not None and issubclass(found, GuardedTrainer):
        network: nn.Module = found.build_network_architecture(
            plans, configuration, n_channels, n_heads, False
        )
        return network
    architecture = configuration.configuration["architecture"]
    name = named_network(architecture)
    if name is None:
        raise ValueError(
            f"The checkpoint is of {trainer}, whose network ({architecture['network_class_name']}) is not "
            "one of this package; only its own networks can be looked into."
            if found is not None
            else f"The checkpoint is of {trainer}, which nnU-Net does not find; set nnUNet_extTrainer to the "
            "folder with its class."
        )
    sizes = architecture["arch_kwargs"]
    return guard_output(create_network(name, input_channels=n_channels, num_classes=n_heads, **sizes))


def _look_up(trainer: str) -> Any:
    """The class that nnU-Net finds by this name, among the user's trainers too; None if there is none."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with redirect_stdout(StringIO()):  # the search reports every file that it inspects
            return recursive_find_trainer_class_by_name(trainer)
    except RuntimeError:
        return None


def read_patch(
    trained: Trained,
    images: Sequence[Path],
    centre: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> Patch:
    """A patch around the voxel `centre` of the image (default: its middle), prepared by nnU-Net.

    It is as large as the plans say or as `size`, and moved to lie within the image where it can; what lies
    outside is zero, as in nnU-Net's prediction.
    """
    if len(images) != trained.n_channels:
        raise ValueError(
            f"{trained.trainer} was trained on {trained.n_channels} channels; got {len(images)} image files. "
            "Give one file per channel, in their order."
        )
    preprocessor = trained.configuration.preprocessor_class(verbose=False)
    files = [str(file) for file in images]
    data, _, properties = preprocessor.run_case(
        files, None, trained.plans, trained.configuration, trained.dataset_json
    )
    data = torch.as_tensor(np.asarray(data)).float()  # (C, z, y, x)
    axes = tuple(trained.plans.transpose_forward)
    cropped = tuple(int(first) for first, _ in properties["bbox_used_for_cropping"])
    before = properties["shape_after_cropping_and_before_resampling"]
    scale = tuple(new / old for new, old in zip(data.shape[1:], before, strict=True))
    grid = tuple(int(n) for n in size or trained.configuration.patch_size)
    if len(grid) != len(trained.configuration.patch_size):
        raise ValueError(
            f"A patch of this network has {len(trained.configuration.patch_size)} axes, not {grid}."
        )
    if centre is None:
        middle = tuple(n // 2 for n in data.shape[1:])
    else:
        middle = in_data(centre, axes, cropped, scale)
        if any(not 0 <= at < n for at, n in zip(middle, data.shape[1:], strict=True)):
            raise ValueError(
                f"The centre {tuple(centre)} lies outside of the image, or of its part that is not zero."
            )
    grid3 = (1,) * (3 - len(grid)) + grid
    corner = tuple(first_of(at, n, full) for at, n, full in zip(middle, grid3, data.shape[1:], strict=True))
    cut = cut_out(data, corner, grid3)
    return Patch(cut.reshape(1, len(data), *grid), axes, cropped, scale, corner)


def first_of(middle: int, size: int, full: int) -> int:
    """The first voxel of `size` around `middle`, within `full` if it fits, else with `full` in its middle."""
    if size >= full:
        return -((size - full) // 2)
    return min(max(middle - size // 2, 0), full - size)


def cut_out(data: Tensor, corner: Sequence[int], grid: Sequence[int]) -> Tensor:
    """(C, *) -> (C, *grid), zero outside of the data."""
    cut = data.new_zeros(len(data), *grid)
    here, there = [slice(None)], [slice(None)]
    for first, n, full in zip(corner, grid, data.shape[1:], strict=True):
        start, stop = max(first, 0), min(first + n, full)
        here.append(slice(start - first, stop - first))
        there.append(slice(start, stop))
    cut[tuple(here)] = data[tuple(there)]
    return cut
