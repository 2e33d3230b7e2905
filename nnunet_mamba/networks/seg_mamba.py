"""SegMamba (Xing et al., arXiv:2401.13560) as its code has been since June 2025, 3D.

Shape: (B, input_channels, D, H, W) -> logits (B, num_classes, D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.mixers import MambaMixer
from nnunet_mamba.blocks.unetr import UNETRDecoder
from nnunet_mamba.networks.config import FixedConfig, Mixer
from nnunet_mamba.networks.geometry import Grid, Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.unet import UNet


@dataclass(frozen=True)
class SegMambaConfig(FixedConfig):
    """Config of SegMamba.

    mixer        its order may contain {n_slices}, which stands for the stage's n_slices
    depths       Mamba layers per stage
    n_slices     per stage, pieces of the sequence that take turns in the scan across slices
    hidden_size  channels of the decoder's deepest stage; None: twice those of the encoder's last stage
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    n_slices: tuple[int, ...] = (64, 32, 16, 8)
    hidden_size: int | None = None

    ndims: ClassVar[tuple[int, ...]] = (3,)
    features: ClassVar[tuple[int, ...]] = (48, 96, 192, 384)
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


def _conv_norm_relu(channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, channels, kernel, padding=kernel // 2), nn.InstanceNorm3d(channels), nn.ReLU()
    )


class GatedSpatialConvolution(nn.Module):
    """Residual convolutions x + fuse(local(x) + point(x)): the code adds where the paper multiplies."""

    def __init__(self, channels: int):
        super().__init__()
        self.local = nn.Sequential(_conv_norm_relu(channels, 3), _conv_norm_relu(channels, 3))
        self.point = _conv_norm_relu(channels, 1)
        self.fuse = _conv_norm_relu(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fuse(self.local(x) + self.point(x))


class SegMambaEncoder(CheckpointedStages):
    """Encoder that returns the input (stage 0) and a normalised, projected copy of each stage's output."""

    def __init__(self, config: SegMambaConfig, input_channels: int, features: Sequence[int]):
        super().__init__()
        depths = per_stage("depths", config.depths, len(features))
        n_slices = per_stage("n_slices", config.n_slices, len(features))
        self.downsamples = nn.ModuleList(
            nn.Sequential(nn.InstanceNorm3d(before), nn.Conv3d(before, here, 2, 2))
            if stage
            else nn.Sequential(nn.Conv3d(input_channels, here, 7, 2, 3))
            for stage, (before, here) in enumerate(zip((0, *features), features, strict=False))
        )
        self.convolutions = nn.ModuleList(GatedSpatialConvolution(f) for f in features)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_mamba_layer(config.mixer, f, n) for _ in range(depth if config.mixer else 0)))
            for f, depth, n in zip(features, depths, n_slices, strict=True)
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.InstanceNorm3d(f), nn.Conv3d(f, 2 * f, 1), nn.GELU(), nn.Conv3d(2 * f, f, 1))
            for f in features
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [x]
        for stage in range(len(self.stages)):
            x, output = self.run(stage + 1, partial(self.downsample, stage), x)
            features.append(output)
        return features

    def downsample(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of a stage, and its copy for the decoder."""
        x = self.stages[stage](self.convolutions[stage](self.downsamples[stage](x)))
        return x, self.outputs[stage](x)


def _mamba_layer(mixer: Mixer | None, channels: int, n_slices: int) -> MetaBlock:
    assert mixer is not None
    options = mixer.module_options() | {"order": mixer.order.format(n_slices=n_slices)}
    return MetaBlock("ssm", None, MambaMixer(channels, 3, **options))


class SegMamba(UNet):
    """SegMamba: convolutions and Mamba layers in turn, a UNETR decoder; one output."""

    def __init__(self, config: SegMambaConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        deepest = 2 * features[-1] if config.hidden_size is None else config.hidden_size
        super().__init__(
            SegMambaEncoder(config, sizes.input_channels, features),
            UNETRDecoder(
                (sizes.input_channels, *features),
                (*features, deepest),
                sizes.num_classes,
                ndim=3,
                deep_supervision=deep_supervision,
            ),
            multiple=(16, 16, 16),
            output_strides=((1, 1, 1),),
            n_stages=len(features) + 1,
        )

    def check(self, grid: Grid) -> None:
        super().check(grid)
        if all(size <= 16 for size in grid):
            raise ValueError(
                f"Patch {grid} is too small: a sixteenth of it is one voxel, which has no instance norm. "
                f"Use more than 16 voxels along some axis."
            )
