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
    """One block's input on one image. `stage` 0 is the full resolution, or nearest to it."""

    name: str
    stage: int
    block: Mamba | SS2D
    x: Tensor
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Attention:
    """Of one voxel in one block: a map per walk over the block's own grid, and that voxel's place on it."""

    name: str
    stage: int
    place: tuple[int, ...]
    maps: dict[str, Tensor]  # walk -> (*grid)

    @property
    def total(self) -> Tensor:
        """The sum over walks, whose outputs a block adds."""
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
                stage = stage_of(network, grid, tokens_grid)
                seen.append(Seen(name, stage, block, inputs[0].detach(), tuple(tokens_grid)))

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
            "Choose a network with one (no ...NoSSM twin, no baseline)."
        )
    return seen


def stage_of(network: nn.Module, grid: Sequence[int], tokens_grid: Sequence[int]) -> int:
    """The resolution of a block, counted as the plans count: by the network's own strides if they tell, else
    in powers of two."""
    strides: Any = getattr(network, "output_strides", ())
    for stage, steps in enumerate(strides):
        if all(-(-n // s) == m for n, s, m in zip(grid, steps, tokens_grid, strict=True)):
            return stage
    ratio = max(n / m for n, m in zip(grid, tokens_grid, strict=True))
    return max(round(ratio).bit_length() - 1, 0)


def attention(seen: Seen, place: Sequence[int], grid: Sequence[int]) -> Attention:
    """The rows of the voxel at `place` of a patch of `grid` voxels."""
    ratios = [max(round(n / m), 1) for n, m in zip(grid, seen.grid, strict=True)]
    own = tuple(min(at // r, m - 1) for at, r, m in zip(place, ratios, seen.grid, strict=True))
    token = 0
    for at, size in zip(own, seen.grid, strict=True):
        token = token * size + at
    maps: dict[str, Tensor] = {}
    for scan in scans_of(seen.block, seen.x, seen.grid):
        maps[scan.walk] = maps.get(scan.walk, 0) + scan.map_of(token)
    return Attention(seen.name, seen.stage, own, maps)


def on_patch(map_: Tensor, grid: Sequence[int]) -> Tensor:
    """A map of a coarser grid repeated onto the patch; what a network padded is cut off."""
    for axis, size in enumerate(grid):
        ratio = max(round(size / map_.shape[axis]), 1)
        map_ = map_.repeat_interleave(ratio, axis).narrow(axis, 0, size)
    return map_
