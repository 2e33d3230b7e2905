"""SegMamba (Xing et al., arXiv:2401.13560) as its code has been since June 2025, 3D, and the parts that it
shares with SegMamba-V2.

Shape: (B, input_channels, D, H, W) -> logits (B, num_classes, D, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.mixers import VoxelMixer
from nnunet_mamba.blocks.unetr import UNETRDecoder
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.geometry import Grid, Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.mixer_config import Mixer
from nnunet_mamba.networks.unet import UNet


@dataclass(frozen=True)
class SegMambaBaseConfig(FixedConfig):
    """Config of both versions of SegMamba.

    depths       layers per stage
    hidden_size  channels of the decoder's deepest stage; None: twice those of the encoder's last stage
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    hidden_size: int | None = None

    ndims: ClassVar[tuple[int, ...]] = (3,)
    features: ClassVar[tuple[int, ...]] = (48, 96, 192, 384)
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


@dataclass(frozen=True)
class SegMambaConfig(SegMambaBaseConfig):
    """Config of SegMamba.

    mixer     its order may contain {n_slices}, which stands for the stage's n_slices
    n_slices  per stage, pieces of the sequence that take turns in the scan across slices
    """

    n_slices: tuple[int, ...] = (64, 32, 16, 8)


def conv_norm_relu(channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the grid, an instance norm without weights, and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv3d(channels, channels, kernel, padding=padding, dilation=dilation),
        nn.InstanceNorm3d(channels),
        nn.ReLU(),
    )


class GatedSpatialConvolution(nn.Module):
    """Residual convolutions x + fuse(local(x) + point(x)): the code adds where the paper multiplies."""

    def __init__(self, channels: int):
        super().__init__()
        self.local = nn.Sequential(conv_norm_relu(channels, 3), conv_norm_relu(channels, 3))
        self.point = conv_norm_relu(channels, 1)
        self.fuse = conv_norm_relu(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fuse(self.local(x) + self.point(x))


class SegMambaEncoder(CheckpointedStages):
    """Encoder that returns a map at full resolution (stage 0) and a normalised, projected copy of each
    stage's output.

    Args:
        stem: what the image passes at full resolution; None: nothing.
        downsamples, convolutions, layers: of each stage, which runs them in this order.
        features: channels per stage.
    """

    def __init__(
        self,
        stem: nn.Module | None,
        downsamples: Iterable[nn.Module],
        convolutions: Iterable[nn.Module],
        layers: Iterable[nn.Module],
        features: Sequence[int],
    ):
        super().__init__()
        self.stem = stem
        self.downsamples = nn.ModuleList(downsamples)
        self.convolutions = nn.ModuleList(convolutions)
        self.stages = nn.ModuleList(layers)
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.InstanceNorm3d(f), nn.Conv3d(f, 2 * f, 1), nn.GELU(), nn.Conv3d(2 * f, f, 1))
            for f in features
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x if self.stem is None else self.run(0, self.stem, x)
        features = [x]
        for stage in range(len(self.stages)):
            x, output = self.run(stage + 1, partial(self.downsample, stage), x)
            features.append(output)
        return features

    def downsample(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of a stage, and its copy for the decoder."""
        x = self.stages[stage](self.convolutions[stage](self.downsamples[stage](x)))
        return x, self.outputs[stage](x)


def mamba_layers(mixer: Mixer | None, channels: int, depth: int) -> nn.Sequential:
    """Return `depth` layers x + M(x); none without a mixer."""
    if mixer is None:
        return nn.Sequential()
    options = {"kind": mixer.kind, **mixer.module_options()}
    return nn.Sequential(*(MetaBlock("ssm", None, VoxelMixer(channels, 3, **options)) for _ in range(depth)))


def _layers(config: SegMambaConfig, features: Sequence[int]) -> list[nn.Module]:
    """Return the Mamba layers of each stage, whose order has the stage's number of slices."""
    depths = per_stage("depths", config.depths, len(features))
    n_slices = per_stage("n_slices", config.n_slices, len(features))
    orders = (config.mixer.order.format(n_slices=n) if config.mixer else "" for n in n_slices)
    mixers = (config.mixer and replace(config.mixer, order=order) for order in orders)
    return [mamba_layers(*stage) for stage in zip(mixers, features, depths, strict=True)]


class SegMambaUNet(UNet):
    """Network of a SegMamba's encoder and UNETR's decoder; one output.

    Args:
        image_channels: channels of the encoder's map at full resolution; None: `features[0]`, and the decoder
            takes it as it is.
        features: channels per stage of the encoder.
    """

    def __init__(
        self,
        encoder: SegMambaEncoder,
        image_channels: int | None,
        features: Sequence[int],
        config: SegMambaBaseConfig,
        num_classes: int,
        deep_supervision: bool,
    ):
        deepest = 2 * features[-1] if config.hidden_size is None else config.hidden_size
        super().__init__(
            encoder,
            UNETRDecoder(
                (image_channels, *features),
                (*features, deepest),
                num_classes,
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


class SegMamba(SegMambaUNet):
    """SegMamba: convolutions and Mamba layers in turn, a UNETR decoder; one output."""

    def __init__(self, config: SegMambaConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        downsamples = [
            nn.Sequential(nn.InstanceNorm3d(before), nn.Conv3d(before, here, 2, 2))
            if stage
            else nn.Sequential(nn.Conv3d(sizes.input_channels, here, 7, 2, 3))
            for stage, (before, here) in enumerate(zip((0, *features), features, strict=False))
        ]
        convolutions = [GatedSpatialConvolution(f) for f in features]
        encoder = SegMambaEncoder(None, downsamples, convolutions, _layers(config, features), features)
        super().__init__(encoder, sizes.input_channels, features, config, sizes.num_classes, deep_supervision)
