"""The Mamba blocks of a network while it works on a patch: where they are, and what they see of a voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.analysis.scan_rows import scans_of
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.vss import SS2D


@dataclass(frozen=True)
class Seen:
    """One block's input on one image, with the voxels of the patch per token of its grid."""

    name: str
    stage: int
    block: Mamba | SS2D
    x: Tensor
    grid: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Attention:
    """Of one voxel in one block: a map per direction over the block's grid, and that voxel's place on it."""

    name: str
    stage: int
    place: tuple[int, ...]
    stride: tuple[int, ...]
    maps: dict[str, Tensor]  # direction -> (*grid)

    @property
    def total(self) -> Tensor:
        """The sum over directions, whose outputs a block adds."""
        return torch.stack(list(self.maps.values())).sum(0)


def watch(network: nn.Module, data: Tensor) -> list[Seen]:
    """Run the network on `data` (1, C, *grid) and keep what its blocks over voxels got.

    ValueError for networks without any; blocks that take channels as tokens (U-Mamba Enc's deepest stages)
    have no place on the image, and are left out.
    """
    grid, seen = tuple(data.shape[2:]), []

    def keeper(name: str) -> Any:
        def keep(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(block, Mamba | SS2D)
            tokens_grid = inputs[1] if isinstance(block, Mamba) else tuple(inputs[0].shape[1:3])
            if len(tokens_grid) == len(grid):
                stride = stride_of(network, grid, tokens_grid)
                stage = stage_of(network, stride)
                seen.append(Seen(name, stage, block, inputs[0].detach(), tuple(tokens_grid), stride))

        return keep

    blocks = [(name, block) for name, block in network.named_modules() if isinstance(block, Mamba | SS2D)]
    hooks = [block.register_forward_pre_hook(keeper(name)) for name, block in blocks]
    try:
        with torch.no_grad():
            network(data)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        what = "no Mamba block at all" if not blocks else "Mamba blocks over channels only"
        raise ValueError(
            f"{type(network).__name__} has {what} on this patch; there is no scan over voxels to look into. "
            "Choose a network with one (no ...NoSSM twin, no baseline), or only features and field."
        )
    return seen


def stride_of(network: nn.Module, grid: Sequence[int], tokens_grid: Sequence[int]) -> tuple[int, ...]:
    """Voxels of a patch of `grid` per token, once the network has padded it."""
    multiple: Any = getattr(network, "multiple", (1,) * len(grid))
    padded = [n + -n % m for n, m in zip(grid, multiple, strict=True)]
    return tuple(-(-n // tokens) for n, tokens in zip(padded, tokens_grid, strict=True))


def stage_of(network: nn.Module, stride: tuple[int, ...]) -> int:
    """0 is the full resolution: counted as the plans count, where the network's strides are theirs, else in
    powers of two."""
    strides: Any = getattr(network, "output_strides", ())
    return strides.index(stride) if stride in strides else max(stride).bit_length() - 1


def attention(seen: Seen, place: Sequence[int]) -> Attention:
    """The rows of the voxel at `place` of the patch."""
    own = tuple(at // step for at, step in zip(place, seen.stride, strict=True))
    token = 0
    for at, size in zip(own, seen.grid, strict=True):
        token = token * size + at
    maps: dict[str, Tensor] = {}
    for scan in scans_of(seen.block, seen.x, seen.grid):
        maps[scan.direction] = maps.get(scan.direction, 0) + scan.map_of(token)
    return Attention(seen.name, seen.stage, own, seen.stride, maps)


def on_patch(map_: Tensor, stride: Sequence[int], grid: Sequence[int]) -> Tensor:
    """A map of a coarser grid repeated onto the patch; what the network padded is cut off."""
    for axis, (step, size) in enumerate(zip(stride, grid, strict=True)):
        map_ = map_.repeat_interleave(step, axis).narrow(axis, 0, size)
    return map_
