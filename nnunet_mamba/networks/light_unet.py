"""LightM-UNet (Liao et al., arXiv:2403.05246) as its code has been since 29 March 2024, 2D and 3D.

Shape: (B, input_channels, *grid) -> logits (B, num_classes, *grid).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.convolution import CONV, Layer, pointwise
from nnunet_mamba.blocks.mixers import BARE
from nnunet_mamba.blocks.tokens import to_tokens
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.geometry import Grid, Sizes, count_fixed_axes, per_stage, read_fixed_features
from nnunet_mamba.networks.unet import UNet
from nnunet_mamba.ops.precision import MIXED, SequenceMixer, clamp_to_float16, with_mixer_precision

N_GROUPS = 8  # of all group norms
LINEAR = {2: "bilinear", 3: "trilinear"}
MAX_POOL: dict[int, Layer] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
STAND_INS = ("nothing", "convolution")


@dataclass(frozen=True)
class LightUNetConfig(FixedConfig):
    """Config of LightM-UNet.

    depths          blocks per stage of the encoder
    depths_decoder  blocks per stage of the decoder, deepest first
    stand_in        what stands in Mamba's place in the twin: nothing, or a depthwise convolution of 3 voxels
                    along each axis
    """

    depths: tuple[int, ...] = (1, 2, 2, 4)
    depths_decoder: tuple[int, ...] = (1, 1, 1)
    stand_in: str = "nothing"

    mixer_outputs: ClassVar[tuple[str, ...]] = (BARE,)
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    features: ClassVar[tuple[int, ...]] = (32, 64, 128, 256)
    strides: ClassVar[tuple[int, ...]] = (1, 2, 2, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stand_in not in STAND_INS:
            raise ValueError(f"stand_in: unknown {self.stand_in!r}; choose from {', '.join(STAND_INS)}.")
        if self.mixer is not None and self.stand_in != "nothing":
            raise ValueError("stand_in: only the twin has something else in Mamba's place; take its name.")


class TokenConvolution(nn.Module):
    """Depthwise convolution of 3 voxels along each axis, without bias, on tokens (b, l, C) of a grid."""

    def __init__(self, channels: int, ndim: int):
        super().__init__()
        self.conv = CONV[ndim](channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        return to_tokens(self.conv(tokens.transpose(1, 2).unflatten(2, grid)))


class VisionMambaLayer(SequenceMixer):
    """Residual vision Mamba layer: with t the tokens of x, a single norm, and a learnt number a that starts
    at 1,

        Linear(LayerNorm(Mamba(LayerNorm(t)) + a t))

    Without Mamba its term is absent, or `stand_in` is in its place.

    Shape: (B, in_channels, *grid) -> (B, out_channels, *grid)
    """

    def __init__(self, config: LightUNetConfig, in_channels: int, out_channels: int, ndim: int):
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mixer = _token_mixer(config, in_channels, ndim)
        if config.mixer is not None and config.mixer.local:
            self.mixer_precision = MIXED
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(in_channels, out_channels)

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        grid, tokens = tuple(x.shape[2:]), to_tokens(x)
        summed = self.skip_scale * tokens
        if self.mixer is not None:
            summed = clamp_to_float16(self.mixer(self.norm(tokens), grid) + summed)
        return self.proj(self.norm(summed)).transpose(1, 2).unflatten(2, grid).contiguous()


def _token_mixer(config: LightUNetConfig, channels: int, ndim: int) -> nn.Module | None:
    """Return the module (tokens, grid) -> tokens between a layer's norms, if there is one."""
    if config.mixer is None:
        return TokenConvolution(channels, ndim) if config.stand_in == "convolution" else None
    return config.mixer.build_layer(channels, ndim)


class LightBlock(nn.Module):
    """Encoder block: x + the branch of two times norm, ReLU and `VisionMambaLayer`."""

    def __init__(self, config: LightUNetConfig, channels: int, ndim: int):
        super().__init__()
        layers = [
            (*_norm_relu(channels), VisionMambaLayer(config, channels, channels, ndim)) for _ in range(2)
        ]
        self.branch = nn.Sequential(*layers[0], *layers[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class LightUpBlock(nn.Module):
    """Decoder block: norm and ReLU before and behind a depthwise separable convolution, to which a learnt
    multiple of x is added."""

    def __init__(self, channels: int, ndim: int):
        super().__init__()
        self.convs = nn.Sequential(*_norm_relu(channels), *_separable(channels, channels, ndim))
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.norm_relu = nn.Sequential(*_norm_relu(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_relu(self.convs(x) + self.skip_scale * x)


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(N_GROUPS, channels), nn.ReLU()


def _separable(
    in_channels: int, out_channels: int, ndim: int, kernel: int = 3, bias: bool = False
) -> tuple[nn.Module, nn.Module]:
    """Return a depthwise and a pointwise convolution."""
    depthwise = CONV[ndim](
        in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=bias
    )
    return depthwise, pointwise(in_channels, out_channels, ndim, bias=bias)


class LightEncoder(CheckpointedStages):
    """Encoder that returns the map of each stage. Channels change before the pooling, on the larger grid."""

    def __init__(self, config: LightUNetConfig, input_channels: int, features: Sequence[int], ndim: int):
        super().__init__()
        depths = per_stage("depths", config.depths, len(features))
        self.stem = nn.Sequential(*_separable(input_channels, features[0], ndim))
        self.reducers = nn.ModuleList(
            nn.Sequential(VisionMambaLayer(config, above, below, ndim), MAX_POOL[ndim](2))
            for above, below in pairwise(features)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(LightBlock(config, f, ndim) for _ in range(depth)))
            for f, depth in zip(features, depths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.run(0, self.enter, x)]
        for stage, reducer in enumerate(self.reducers):
            x = self.run(stage, reducer, maps[-1])
            maps.append(self.run(stage + 1, self.stages[stage + 1], x))
        return maps

    def enter(self, x: Tensor) -> Tensor:
        """Run stage 0."""
        return self.stages[0](self.stem(x))


class LightDecoder(CheckpointedStages):
    """Decoder that adds the skips to linearly interpolated maps; one output."""

    def __init__(
        self,
        config: LightUNetConfig,
        features: Sequence[int],
        num_classes: int,
        ndim: int,
        deep_supervision: bool,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        upwards = features[::-1]
        depths = per_stage("depths_decoder", config.depths_decoder, len(features) - 1)
        self.ups = nn.ModuleList(
            nn.Sequential(
                pointwise(below, above, ndim, bias=False),
                nn.Upsample(scale_factor=2, mode=LINEAR[ndim], align_corners=False),
            )
            for below, above in pairwise(upwards)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(LightUpBlock(f, ndim) for _ in range(depth)))
            for f, depth in zip(upwards[1:], depths, strict=True)
        )
        head = (*_norm_relu(features[0]), *_separable(features[0], num_classes, ndim, kernel=1, bias=True))
        self.seg_layers = nn.ModuleList([nn.Sequential(*head)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        *skips, x = maps
        for i, skip in enumerate(reversed(skips)):
            x = self.run(len(skips) - 1 - i, partial(self.upsample, i), x, skip)
        return [self.run(0, self.seg_layers[0], x)]

    def upsample(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Run stage `i` of the decoder, counted from the deepest."""
        return self.stages[i](self.ups[i](x) + skip)


class LightUNet(UNet):
    """LightM-UNet; one output.

    Raises ValueError for a single image of which a group norm would see one value.
    """

    def __init__(self, config: LightUNetConfig, sizes: Sizes, deep_supervision: bool = False):
        features, ndim = read_fixed_features(config, sizes), count_fixed_axes(config, sizes)
        if any(f % N_GROUPS for f in features):
            raise ValueError(
                f"Group norms need features_per_stage that are multiples of {N_GROUPS}; got {list(features)}."
            )
        super().__init__(
            LightEncoder(config, sizes.input_channels, features, ndim),
            LightDecoder(config, features, sizes.num_classes, ndim, deep_supervision),
            multiple=(8,) * ndim,
            output_strides=((1,) * ndim,),
            n_stages=len(features),
        )
        self.is_one_channel_per_group = features[-1] == N_GROUPS

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if self.is_one_channel_per_group and all(size <= 8 for size in x.shape[2:]) and len(x) == 1:
            raise ValueError(
                f"Patch {tuple(x.shape[2:])} is too small for a batch of one and {N_GROUPS} features in the "
                f"last stage: an eighth of it is one voxel, which has no norm in groups of one channel. Use "
                f"more than 8 voxels along some axis, more features or a larger batch."
            )
        return super().forward(x)
