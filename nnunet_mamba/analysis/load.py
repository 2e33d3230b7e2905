"""Loading of a trained network from nnU-Net's checkpoint alone, and of a patch as nnU-Net preprocesses it."""

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
from nnunet_mamba.networks.finite import check_finite, get_tensors, guard_output
from nnunet_mamba.plans.architecture import build_network, get_build_arguments, get_network_name

NEEDED = ("network_weights", "init_args", "trainer_name")


@dataclass(frozen=True)
class TrainedNetwork:
    """Network in evaluation mode on the CPU, with nnU-Net's managers of its plans."""

    trainer: str
    network: nn.Module
    plans: Any  # PlansManager
    configuration: Any  # ConfigurationManager
    dataset_json: dict[str, Any]
    n_channels: int


@dataclass(frozen=True)
class Patch:
    """Input of the network, and its location in the image, whose voxels are (z, y, x) as in nnU-Net's reader.

    data     (1, C, *grid)
    axes     image axis of each axis of the preprocessed data
    cropped  first voxel kept by nnU-Net's cropping, per axis of the data
    scale    voxels of the data per voxel of the image
    corner   first voxel of the patch in the data; for 2D networks with its slice
    """

    data: Tensor
    axes: tuple[int, ...]
    cropped: tuple[int, ...]
    scale: tuple[float, ...]
    corner: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.data.shape[2:])

    def locate(self, voxel: Sequence[int]) -> tuple[int, ...]:
        """Return the index in the patch of a voxel of the image. ValueError if it is outside."""
        inside = tuple(
            at - first
            for at, first in zip(
                to_data_index(voxel, self.axes, self.cropped, self.scale), self.corner, strict=True
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
        """Return the image's voxels in the patch, per axis, for messages."""
        grid = (1,) * (3 - len(self.grid)) + self.grid
        ranges = {}
        for k, axis in enumerate(self.axes):
            ends = (self.corner[k], self.corner[k] + grid[k] - 1)
            first, last = (int((end + 0.5) / self.scale[k]) + self.cropped[k] for end in ends)
            ranges["zyx"[axis]] = f"{'zyx'[axis]} {max(first, 0)} to {last}"
        return ", ".join(ranges[axis] for axis in "zyx")


def to_data_index(
    voxel: Sequence[int], axes: Sequence[int], cropped: Sequence[int], scale: Sequence[float]
) -> tuple[int, ...]:
    """Return the index of a voxel of the image after nnU-Net's transposition, cropping and resampling."""
    return tuple(
        int(np.floor((voxel[axis] - first + 0.5) * ratio))
        for axis, first, ratio in zip(axes, cropped, scale, strict=True)
    )


def load_trained(checkpoint: Path) -> TrainedNetwork:
    """Build the network as its trainer does, and load its weights strictly. No code in the file is run.

    ValueError if the file is no checkpoint of nnU-Net, for trainers of other packages, and for weights that
    do not fit or are not finite.
    """
    content = load_restricted(checkpoint)
    missing = [key for key in NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(
            f"{checkpoint} lacks {', '.join(missing)}; expected a checkpoint that nnU-Net wrote, such as "
            "checkpoint_final.pth. (Weights of other repositories: nnunet-mamba import-checkpoint.)"
        )
    given, name = content["init_args"], str(content["trainer_name"])
    arguments = get_build_arguments(given["plans"], given["configuration"], given["dataset_json"])
    plans, configuration, n_channels, _ = arguments
    network = _build_trained_network(name, *arguments)
    try:
        network.load_state_dict(content["network_weights"])
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {checkpoint} do not fit the network of {name} on its plans: {error}"
        ) from error
    check_finite(
        get_tensors(network), checkpoint, "Such a network cannot be inspected; take another checkpoint."
    )
    return TrainedNetwork(name, network.eval(), plans, configuration, given["dataset_json"], n_channels)


def _build_trained_network(
    trainer: str, plans: Any, configuration: Any, n_channels: int, n_heads: int
) -> nn.Module:
    """Build the network by its trainer, if that is one of this package or derives from one, else the network
    of this package that the plans name. Nothing else that plans name is imported."""
    from nnunet_mamba import trainers
    from nnunet_mamba.trainers.base import GuardedTrainer

    found = getattr(trainers, trainer) if trainer in trainers.__all__ else _look_up(trainer)
    if found is not None and issubclass(found, GuardedTrainer):
        network: nn.Module = found.build_network_architecture(
            plans, configuration, n_channels, n_heads, False
        )
        return network
    architecture = configuration.configuration["architecture"]
    name = get_network_name(architecture)
    if name is None:
        raise ValueError(
            f"The checkpoint is of {trainer}, whose network ({architecture['network_class_name']}) is not "
            "one of this package; only its own networks can be inspected."
            if found is not None
            else f"The checkpoint is of {trainer}, which nnU-Net does not find; set nnUNet_extTrainer to the "
            "folder with its class."
        )
    return guard_output(build_network(name, configuration, n_channels, n_heads))


def _look_up(trainer: str) -> Any:
    """Return the trainer class that nnU-Net finds by this name, users' included; None if there is none."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with redirect_stdout(StringIO()):  # the search reports every file that it inspects
            return recursive_find_trainer_class_by_name(trainer)
    except RuntimeError:
        return None


def read_patch(
    trained: TrainedNetwork,
    images: Sequence[Path],
    centre: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> Patch:
    """Read a patch around the voxel `centre` of the image (default: its middle), preprocessed by nnU-Net.

    Its size is `size`, or that of the plans. It is moved to lie within the image if it fits; outside it is
    zero, as in nnU-Net's prediction.
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
        middle = to_data_index(centre, axes, cropped, scale)
        if any(not 0 <= at < n for at, n in zip(middle, data.shape[1:], strict=True)):
            raise ValueError(
                f"The centre {tuple(centre)} lies outside of the image, or of its part that is not zero."
            )
    grid3 = (1,) * (3 - len(grid)) + grid
    corner = tuple(
        first_voxel(at, n, full) for at, n, full in zip(middle, grid3, data.shape[1:], strict=True)
    )
    cut = crop_with_zeros(data, corner, grid3)
    return Patch(cut.reshape(1, len(data), *grid), axes, cropped, scale, corner)


def first_voxel(middle: int, size: int, full: int) -> int:
    """Return the first of `size` voxels around `middle`: within `full` if they fit, else centred on it."""
    if size >= full:
        return -((size - full) // 2)
    return min(max(middle - size // 2, 0), full - size)


def crop_with_zeros(data: Tensor, corner: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Crop data (C, *) to (C, *grid) from `corner` on, with zeros outside of the data."""
    cut = data.new_zeros(len(data), *grid)
    target, source = [slice(None)], [slice(None)]
    for first, n, full in zip(corner, grid, data.shape[1:], strict=True):
        start, stop = max(first, 0), min(first + n, full)
        target.append(slice(start - first, stop - first))
        source.append(slice(start, stop))
    cut[tuple(target)] = data[tuple(source)]
    return cut
