"""nnMamba (Gong et al., arXiv:2402.03526) as in the file nnMamba.py of its code of March 2024, 3D.

Shape: (B, input_channels, D, H, W) -> logits (B, num_classes, D, H, W), which are never negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.convolution import ChannelGate
from nnunet_mamba.blocks.mixers import BARE
from nnunet_mamba.blocks.tokens import to_map, to_tokens
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.geometry import Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.mixer_config import Mixer
from nnunet_mamba.networks.unet import UNet
from nnunet_mamba.ops.precision import MIXED, SequenceMixer, clamp_to_float16, with_mixer_precision
from nnunet_mamba.scan_order import scan_order

REDUCTION = 16  # of channels in the gates of the skips


@dataclass(frozen=True)
class NnMambaConfig(FixedConfig):
    """Config of nnMamba.

    mixer      its order gives the directions over the voxels, which share all weights
    depths     residual blocks per stage of the encoder but the first; all but one of them have the mixer
    final_act  end with ReLU, as its code does; else the logits may be negative
    """

    depths: tuple[int, ...] = (3, 3, 3)
    final_act: bool = True

    mixer_outputs: ClassVar[tuple[str, ...]] = (BARE,)
    ndims: ClassVar[tuple[int, ...]] = (3,)
    features: ClassVar[tuple[int, ...]] = (32, 64, 128, 256)
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


class FlippedMamba(SequenceMixer):
    """Mean of one Mamba's outputs for tokens of channels in both orders, over all its directions; flipped
    channels are flipped back. Shape: (B, C, *grid) -> (B, C, *grid)"""

    def __init__(self, channels: int, mixer: Mixer):
        super().__init__()
        self.mamba = mixer.build_layer(channels, ndim=3)
        self.n_outputs = 2 * (1 if mixer.local else len(scan_order(mixer.order, 3)))
        if mixer.local:
            self.mixer_precision = MIXED

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)
        both = torch.cat((tokens, tokens.flip(2)))
        straight, flipped = self.mamba(both, tuple(x.shape[2:])).chunk(2)
        total = clamp_to_float16(straight + flipped.flip(2))
        return to_map(total / self.n_outputs, x)


class MambaBranch(nn.Module):
    """Branch of a residual block: with h = enter(x), leave(h + mixer(h)); both are a pointwise convolution,
    norm, ReLU."""

    def __init__(self, channels: int, mixer: Mixer):
        super().__init__()
        self.enter = nn.Sequential(*_conv_norm(channels, channels, 1), nn.ReLU())
        self.mixer = FlippedMamba(channels, mixer)
        self.leave = nn.Sequential(*_conv_norm(channels, channels, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.leave(h + self.mixer(h))


class ResidualBlock(nn.Module):
    """Two convolutions with a skip, projected where the stride is not 1, and perhaps another branch."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.convs = nn.Sequential(
            *_conv_norm(in_channels, out_channels, 3, stride),
            nn.ReLU(),
            *_conv_norm(out_channels, out_channels, 3),
        )
        projected = stride != 1
        self.skip = nn.Sequential(*_conv_norm(in_channels, out_channels, 1, stride) if projected else ())

    def forward(self, x: Tensor, branch: nn.Module | None = None) -> Tensor:
        summed = self.convs(x) + self.skip(x)
        return F.relu(summed if branch is None else summed + branch(x))


class NnMambaStage(nn.Module):
    """Residual blocks, of which the first halves the grid and the others share a single Mamba branch, the
    statistics of its norms among the rest."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, mixer: Mixer | None):
        super().__init__()
        self.first = ResidualBlock(in_channels, out_channels, 2)
        self.blocks = nn.ModuleList(ResidualBlock(out_channels, out_channels, 1) for _ in range(depth - 1))
        self.branch = MambaBranch(out_channels, mixer) if mixer is not None and depth > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, self.branch)
        return x


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False
) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv3d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
    return conv, nn.BatchNorm3d(out_channels)


def double_conv(in_channels: int, out_channels: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Return two convolutions with norm and ReLU; without `act` the last ReLU is left out."""
    return nn.Sequential(
        *_conv_norm(in_channels, out_channels, 3, stride, bias=True),
        nn.ReLU(),
        *_conv_norm(out_channels, out_channels, 3, bias=True),
        *([nn.ReLU()] if act else []),
    )


class NnMambaEncoder(CheckpointedStages):
    """Encoder that returns the maps at a half, a fourth, ... of the resolution; stage 0, the full one, is the
    decoder's alone."""

    def __init__(self, config: NnMambaConfig, input_channels: int, features: Sequence[int]):
        super().__init__()
        depths = per_stage("depths", config.depths, len(features) - 1)
        self.stem = double_conv(input_channels, features[0], stride=2)
        self.stages = nn.ModuleList(
            NnMambaStage(above, below, depth, config.mixer)
            for (above, below), depth in zip(pairwise(features), depths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.run(1, self.stem, x)]
        for number, stage in enumerate(self.stages, start=2):
            maps.append(self.run(number, stage, maps[-1]))
        return maps


class NnMambaDecoder(CheckpointedStages):
    """Decoder that interpolates, concatenates gated skips and convolves; its last block has no skip."""

    def __init__(self, features: Sequence[int], num_classes: int, final_act: bool, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        upwards = features[::-1]
        self.gates = nn.ModuleList(ChannelGate(f, f // REDUCTION) for f in upwards[1:])
        self.blocks = nn.ModuleList(double_conv(below + above, above) for below, above in pairwise(upwards))
        self.seg_layers = nn.ModuleList([double_conv(features[0], num_classes, act=final_act)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        *skips, x = maps
        for i, skip in enumerate(reversed(skips)):
            x = self.run(len(skips) - i, partial(self.upsample, i), x, skip)
        return [self.run(0, self.upsample_last, x)]

    def upsample(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Run stage `i` of the decoder, counted from the deepest."""
        return self.blocks[i](torch.cat((_enlarge(x), self.gates[i](skip)), 1))

    def upsample_last(self, x: Tensor) -> Tensor:
        return self.seg_layers[0](_enlarge(x))


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


class NnMamba(UNet):
    """nnMamba; one output. Its batch norms need more than one voxel per channel in training, and have
    statistics of their own in prediction.

    Raises ValueError in training for a single image that is reduced to one voxel.
    """

    def __init__(self, config: NnMambaConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes, at_least=REDUCTION)
        super().__init__(
            NnMambaEncoder(config, sizes.input_channels, features),
            NnMambaDecoder(features, sizes.num_classes, config.final_act, deep_supervision),
            multiple=(16, 16, 16),
            output_strides=((1, 1, 1),),
            n_stages=len(features) + 1,
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if self.training and len(x) == 1 and all(size <= 16 for size in x.shape[2:]):
            raise ValueError(
                f"Patch {tuple(x.shape[2:])} is too small to train with a batch of one: a sixteenth of it is "
                f"one voxel, which has no batch norm. Use more than 16 voxels along some axis, or a larger "
                f"batch."
            )
        return super().forward(x)
