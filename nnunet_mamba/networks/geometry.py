"""Checks of a network's sizes, which come from nnU-Net's plans with one entry per stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_mamba.networks.config import FixedConfig

Grid = tuple[int, ...]
PerStage = int | Sequence[int]


@dataclass(frozen=True)
class Sizes:
    """Arguments of `create_network` as given, unchecked."""

    input_channels: int
    num_classes: int
    features_per_stage: Sequence[int] | None = None
    strides: Sequence[PerStage] | None = None
    kernel_sizes: Sequence[PerStage] | None = None
    n_conv_per_stage: PerStage = 2
    n_conv_per_stage_decoder: PerStage = 2
    n_blocks_per_stage: PerStage | None = None
    patch_size: Sequence[int] | None = None


@dataclass(frozen=True)
class Geometry:
    """Checked sizes per stage, from full resolution to the bottleneck.

    convs           convolutions or blocks per stage, as `MetaConfig.plan_counts` reads the plans
    convs_decoder   the same of the decoder, deepest first, one fewer than stages
    blocks          residual blocks per stage, of nnU-Net's ResEnc plans
    """

    input_channels: int
    num_classes: int
    features: tuple[int, ...]
    strides: tuple[Grid, ...]
    kernels: tuple[Grid, ...]
    convs: tuple[int, ...]
    convs_decoder: tuple[int, ...]
    blocks: tuple[int, ...] | None
    patch: Grid | None = None

    @property
    def n_stages(self) -> int:
        return len(self.features)

    @property
    def ndim(self) -> int:
        return len(self.strides[0])

    @property
    def total_strides(self) -> tuple[Grid, ...]:
        """Return the voxels of the input per voxel of each stage."""
        return tuple(
            tuple(math.prod(s[axis] for s in self.strides[: stage + 1]) for axis in range(self.ndim))
            for stage in range(self.n_stages)
        )

    def grid(self, stage: int) -> Grid:
        """Return the voxels per axis of a stage for the plans' patch, padded to a multiple of the strides."""
        if self.patch is None:
            raise ValueError(
                "patch_size is missing: the weights of this network depend on it, for its deepest stages "
                "take channels as tokens. Pass the patch_size of the plans."
            )
        total = self.total_strides
        return tuple(
            -(-size // whole) * whole // part
            for size, whole, part in zip(self.patch, total[-1], total[stage], strict=True)
        )


def read_geometry(sizes: Sizes) -> Geometry:
    """Check the arguments of `create_network` against each other. ValueError says how to correct them."""
    _check_counts(sizes)
    features = sizes.features_per_stage
    if features is None or sizes.strides is None or sizes.kernel_sizes is None:
        missing = [
            name for name in ("features_per_stage", "strides", "kernel_sizes") if getattr(sizes, name) is None
        ]
        raise ValueError(
            f"Missing: {', '.join(missing)}. This network takes its topology from nnU-Net's plans; pass what "
            f"they have under architecture.arch_kwargs, one entry per stage."
        )
    n_stages = len(features)
    if n_stages < 2:
        raise ValueError(f"A U-Net has at least 2 stages, got features_per_stage={list(features)}.")
    ndim = _count_axes(sizes.strides, sizes.kernel_sizes, sizes.patch_size)
    blocks = sizes.n_blocks_per_stage
    geometry = Geometry(
        sizes.input_channels,
        sizes.num_classes,
        tuple(features),
        _per_axis("strides", sizes.strides, n_stages, ndim),
        _per_axis("kernel_sizes", sizes.kernel_sizes, n_stages, ndim),
        per_stage("n_conv_per_stage", sizes.n_conv_per_stage, n_stages),
        per_stage("n_conv_per_stage_decoder", sizes.n_conv_per_stage_decoder, n_stages - 1),
        None if blocks is None else per_stage("n_blocks_per_stage", blocks, n_stages),
        None if sizes.patch_size is None else tuple(sizes.patch_size),
    )
    if any(k % 2 == 0 for kernel in geometry.kernels for k in kernel):
        raise ValueError(f"Kernel sizes must be odd, got {list(geometry.kernels)}.")
    if geometry.patch is not None:
        check_grid(geometry.patch, geometry.total_strides)
    return geometry


def read_fixed_features(config: FixedConfig, sizes: Sizes, at_least: int = 1) -> tuple[int, ...]:
    """Return the channels per stage of a network of fixed topology: those given, or its paper's.

    Raises ValueError for strides, kernels, counts of convolutions, axes or stages that are not its own.
    """
    _check_counts(sizes)
    ndim = count_fixed_axes(config, sizes)
    features, n_stages = tuple(sizes.features_per_stage or config.features), len(config.features)
    if len(features) != n_stages:
        raise ValueError(
            f"features_per_stage must have {n_stages} entries for this network, such as "
            f"{list(config.features)}; got {list(features)}."
        )
    if min(features) < at_least:
        raise ValueError(
            f"This network needs {at_least} features or more in each stage; got {list(features)}."
        )
    own = {"strides": (config.strides, config.plan_strides()), "kernel_sizes": ((3,) * n_stages,)}
    for name, choices in own.items():
        given = getattr(sizes, name)
        if given is not None and not any(_is_isotropic(given, choice, ndim) for choice in choices):
            raise ValueError(
                f"{name} of this network are {list(choices[0])}, not {list(given)}; leave them out."
            )
    if (sizes.n_conv_per_stage, sizes.n_conv_per_stage_decoder, sizes.n_blocks_per_stage) != (2, 2, None):
        raise ValueError("This network does not count convolutions; leave them out, or set its depths.")
    return features


def count_fixed_axes(config: FixedConfig, sizes: Sizes) -> int:
    """Return the number of axes of the patch, else of the strides, else the largest that the network takes.

    Raises ValueError for a number that it does not take.
    """
    per_axis = (entry for entry in sizes.strides or () if not isinstance(entry, int))
    given = next(per_axis, None) if sizes.patch_size is None else sizes.patch_size
    if given is None:
        return max(config.ndims)
    if len(given) not in config.ndims:
        came = "an entry of strides" if sizes.patch_size is None else "patch_size"
        axes = " and ".join(f"{n}D" for n in config.ndims)
        numbers = " or ".join(map(str, config.ndims))
        configurations = " or ".join("2d" if n == 2 else "3d_fullres" for n in config.ndims)
        raise ValueError(
            f"This network works in {axes}, but {came} is {list(given)}; give {numbers} numbers, or use "
            f"nnU-Net's configuration {configurations}."
        )
    return len(given)


def check_grid(grid: Grid, total_strides: tuple[Grid, ...]) -> None:
    """Raise ValueError for a patch that the strides shrink too much: each axis needs a voxel in the
    bottleneck, and the bottleneck more than one in all, for its instance norm."""
    total = total_strides[-1]
    bottleneck = [-(-size // t) for size, t in zip(grid, total, strict=True)]
    if any(size < t for size, t in zip(grid, total, strict=True)) or math.prod(bottleneck) == 1:
        raise ValueError(
            f"Patch {grid} is too small for {len(total_strides)} stages, which shrink it by {total}. "
            f"Use fewer stages, or a larger patch."
        )


def _check_counts(sizes: Sizes) -> None:
    if sizes.input_channels < 1 or sizes.num_classes < 1:
        raise ValueError(
            f"Expected at least one channel and one class, got input_channels={sizes.input_channels} and "
            f"num_classes={sizes.num_classes}."
        )


def _count_axes(
    strides: Sequence[PerStage], kernel_sizes: Sequence[PerStage], patch_size: Sequence[int] | None
) -> int:
    """Return the number of axes on which all sizes agree."""
    lengths = {len(entry) for entry in (*strides, *kernel_sizes) if not isinstance(entry, int)}
    lengths |= {len(patch_size)} if patch_size is not None else set()
    if len(lengths) != 1 or not lengths <= {2, 3}:
        raise ValueError(
            f"strides, kernel_sizes and patch_size must agree on 2 or 3 axes, "
            f"got {sorted(lengths) or 'only numbers'}; write [2, 2, 2] for 2 in 3D."
        )
    return lengths.pop()


def _per_axis(name: str, entries: Sequence[PerStage], n_stages: int, ndim: int) -> tuple[Grid, ...]:
    """Return one number per axis and stage. ValueError unless there is an entry for each stage."""
    if len(entries) != n_stages:
        raise ValueError(
            f"{name} has {len(entries)} entries, but features_per_stage has {n_stages}; both are per stage."
        )
    return tuple((entry,) * ndim if isinstance(entry, int) else tuple(entry) for entry in entries)


def _is_isotropic(given: Sequence[PerStage], own: Sequence[int], ndim: int) -> bool:
    """Return True if strides or kernels are `own`, the same for all axes."""
    as_grids = [(entry,) * ndim if isinstance(entry, int) else tuple(entry) for entry in given]
    return as_grids == [(size,) * ndim for size in own]


def per_stage(name: str, entries: PerStage, n_wanted: int) -> tuple[int, ...]:
    """Return one number per stage, of a number for all stages or one each. ValueError for others."""
    counts = (entries,) * n_wanted if isinstance(entries, int) else tuple(entries)
    if len(counts) != n_wanted or min(counts) < 1:
        raise ValueError(f"{name} must be a positive number or {n_wanted} of them, got {entries!r}.")
    return counts
