"""The sizes of a network, checked: what nnU-Net's plans say, one entry per stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Grid = tuple[int, ...]
PerStage = int | Sequence[int]


@dataclass(frozen=True)
class Geometry:
    """Stages from full resolution to the bottleneck; `convs` counts what the plans count."""

    input_channels: int
    num_classes: int
    features: tuple[int, ...]
    strides: tuple[Grid, ...]
    kernels: tuple[Grid, ...]
    convs: tuple[int, ...]
    convs_decoder: tuple[int, ...]  # deepest first, one fewer than stages
    blocks: tuple[int, ...] | None  # residual blocks per stage, where the plans are nnU-Net's ResEnc plans

    @property
    def n_stages(self) -> int:
        return len(self.features)

    @property
    def ndim(self) -> int:
        return len(self.strides[0])

    @property
    def total_strides(self) -> tuple[Grid, ...]:
        """Voxels of the input per voxel of each stage."""
        return tuple(
            tuple(math.prod(s[axis] for s in self.strides[: stage + 1]) for axis in range(self.ndim))
            for stage in range(self.n_stages)
        )


def read_geometry(
    *,
    input_channels: int,
    num_classes: int,
    features_per_stage: Sequence[int],
    strides: Sequence[PerStage] | None,
    kernel_sizes: Sequence[PerStage] | None,
    n_conv_per_stage: PerStage,
    n_conv_per_stage_decoder: PerStage,
    n_blocks_per_stage: PerStage | None,
    patch_size: Sequence[int] | None,
) -> Geometry:
    """Check the arguments of `create_network` against each other. Raises ValueError with what to do."""
    n_stages = len(features_per_stage)
    if n_stages < 2:
        raise ValueError(f"A U-Net has at least 2 stages, got features_per_stage={list(features_per_stage)}.")
    if input_channels < 1 or num_classes < 1:
        raise ValueError(
            f"Need at least one channel and one class, got {input_channels=} and {num_classes=}."
        )
    if strides is None or kernel_sizes is None:
        missing = "strides" if strides is None else "kernel_sizes"
        raise ValueError(
            f"{missing} is missing: this network takes its topology from nnU-Net's plans. Pass what they "
            f"have under architecture.arch_kwargs, one entry per stage."
        )
    ndim = _ndim(strides, kernel_sizes, patch_size)
    geometry = Geometry(
        input_channels,
        num_classes,
        tuple(features_per_stage),
        _grids("strides", strides, n_stages, ndim),
        _grids("kernel_sizes", kernel_sizes, n_stages, ndim),
        _counts("n_conv_per_stage", n_conv_per_stage, n_stages),
        _counts("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1),
        None if n_blocks_per_stage is None else _counts("n_blocks_per_stage", n_blocks_per_stage, n_stages),
    )
    if any(k % 2 == 0 for kernel in geometry.kernels for k in kernel):
        raise ValueError(f"Kernel sizes must be odd, got {list(geometry.kernels)}.")
    if patch_size is not None:
        check_grid(tuple(patch_size), geometry.total_strides)
    return geometry


def check_grid(grid: Grid, total_strides: tuple[Grid, ...]) -> None:
    """Refuse a patch that the strides would shrink to nothing: each axis needs a voxel in the bottleneck, and
    the bottleneck more than one, for its instance norm."""
    total = total_strides[-1]
    bottleneck = [-(-size // t) for size, t in zip(grid, total, strict=True)]
    if any(size < t for size, t in zip(grid, total, strict=True)) or math.prod(bottleneck) == 1:
        raise ValueError(
            f"Patch {grid} is too small for {len(total_strides)} stages, which shrink it by {total}. "
            f"Use fewer stages, or a larger patch."
        )


def _ndim(
    strides: Sequence[PerStage], kernel_sizes: Sequence[PerStage], patch_size: Sequence[int] | None
) -> int:
    lengths = {len(entry) for entry in (*strides, *kernel_sizes) if not isinstance(entry, int)}
    lengths |= {len(patch_size)} if patch_size is not None else set()
    if len(lengths) != 1 or not lengths <= {2, 3}:
        raise ValueError(
            f"strides, kernel_sizes and patch_size must agree on 2 or 3 axes, "
            f"got {sorted(lengths) or 'only numbers'}; write [2, 2, 2] for 2 in 3D."
        )
    return lengths.pop()


def _grids(name: str, entries: Sequence[PerStage], n_stages: int, ndim: int) -> tuple[Grid, ...]:
    if len(entries) != n_stages:
        raise ValueError(
            f"{name} has {len(entries)} entries, but features_per_stage has {n_stages}; both are per stage."
        )
    return tuple((entry,) * ndim if isinstance(entry, int) else tuple(entry) for entry in entries)


def _counts(name: str, entries: PerStage, n_wanted: int) -> tuple[int, ...]:
    counts = (entries,) * n_wanted if isinstance(entries, int) else tuple(entries)
    if len(counts) != n_wanted or min(counts) < 1:
        raise ValueError(f"{name} must be a positive number or {n_wanted} of them, got {entries!r}.")
    return counts
