"""Meta U-Net: nnU-Net's topology, with stages built as a `MetaConfig` says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.convolution import ConvNormAct, StackedConvs, pointwise, projection_skip, upsampling
from nnunet_mamba.blocks.large_kernel import warn_of_whole_maps
from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.mixers import LAYERS, ChannelMixer, Place, build_mixer
from nnunet_mamba.networks.config import MetaConfig
from nnunet_mamba.networks.geometry import Geometry, Grid, Sizes, check_grid, read_geometry
from nnunet_mamba.networks.unet import UNet


class StageBuilder:
    """Builder of the stages of one network; stage 0 has the full resolution."""

    def __init__(self, config: MetaConfig, geometry: Geometry):
        self.config, self.geometry, self.ndim = config, geometry, geometry.ndim

    def build_mixer(self, stage: int) -> nn.Module:
        """Build a mixer for the channels of a stage."""
        mixer, channels = self.config.mixer, self.geometry.features[stage]
        assert mixer is not None
        if "channel_tokens" in self.config.quirks and mixer.kind in LAYERS:
            grid = self.geometry.grid(stage)
            if math.prod(grid) <= channels:
                return ChannelMixer(channels, grid, kind=mixer.kind, **mixer.module_options())
        place = Place(self.geometry.n_stages - stage, self.geometry.patch and self.geometry.grid(stage))
        return build_mixer(mixer.kind, channels, self.ndim, place, **mixer.module_options())

    def build_stage(
        self, placement: str, stage: int, in_channels: int, stride: Grid, convs: int, blocks: int
    ) -> nn.Sequential:
        """Build `blocks` blocks of `convs` convolutions each, with the channels of `stage`."""
        channels, kernel = self.geometry.features[stage], self.geometry.kernels[stage]
        if placement == "plain":
            return nn.Sequential(StackedConvs(in_channels, channels, kernel, stride, convs))
        config = self.config
        steps: list[nn.Module] = []
        if placement == "ssm" or (config.downsample == "layer" and math.prod(stride) > 1):
            steps.append(ConvNormAct(in_channels, channels, kernel, stride))
            in_channels, stride = channels, (1,) * self.ndim
        for block in range(blocks):
            first = (in_channels, stride) if block == 0 else (channels, (1,) * self.ndim)
            steps += self.build_blocks(placement, stage, *first, convs, group_start=block == 0)
        if config.mixer and config.mixer_per == "stage" and placement != "cnn":
            steps.append(self.build_mixer(stage))
        return nn.Sequential(*steps)

    def build_blocks(
        self,
        placement: str,
        stage: int,
        in_channels: int,
        stride: Grid,
        convs: int,
        group_start: bool,
    ) -> list[nn.Module]:
        """Build one meta-block; two for `ssm`, the paper's "two sequential Mamba-based modules"."""
        config = self.config
        channels, kernel = self.geometry.features[stage], self.geometry.kernels[stage]
        has_mixer = config.mixer is not None and config.mixer_per == "block" and placement != "cnn"
        if placement == "ssm":
            return [MetaBlock("ssm", None, self.build_mixer(stage)) for _ in range(2)] if has_mixer else []
        if config.skip == "conv":
            skip = pointwise(in_channels, channels, self.ndim, stride) if group_start else nn.Identity()
        else:
            skip = projection_skip(in_channels, channels, stride)
        branch = StackedConvs(in_channels, channels, kernel, stride, convs, last_act=False)
        within = placement if has_mixer else "cnn"
        return [MetaBlock(within, branch, self.build_mixer(stage) if has_mixer else None, skip)]


class Encoder(CheckpointedStages):
    """Stem and stages; returns the features of every stage, full resolution first."""

    def __init__(self, config: MetaConfig, geometry: Geometry, builder: StageBuilder):
        super().__init__()
        convs, blocks = encoder_counts(config, geometry)
        channels, features = geometry.input_channels, geometry.features
        self.stem: nn.Module = nn.Identity()
        if config.stem != "none":
            no_stride = (1,) * geometry.ndim
            self.stem = (
                StackedConvs(channels, features[0], geometry.kernels[0], no_stride, n_convs=1)
                if config.stem == "conv"
                else builder.build_stage("cnn", 0, channels, no_stride, convs[0], blocks[0])
            )
            channels = features[0]
        stages = []
        for s, placement in enumerate(encoder_placements(config, geometry)):
            n_blocks = blocks[s] + added_blocks(config, geometry, s)
            stages.append(
                builder.build_stage(placement, s, channels, geometry.strides[s], convs[s], n_blocks)
            )
            channels = features[s]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.run(0, self.stem, x)
        features = []
        for i, stage in enumerate(self.stages):
            x = self.run(i, stage, x)
            features.append(x)
        return features


class Decoder(CheckpointedStages):
    """Upsampling, skips and stages from the bottleneck up, with heads (`seg_layers`) on the last stages.

    The heads do not depend on `deep_supervision`, so a state_dict fits either way.
    """

    def __init__(self, config: MetaConfig, geometry: Geometry, builder: StageBuilder, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        convs, blocks = decoder_counts(config, geometry)
        n_decoder = geometry.n_stages - 1
        self.n_skips = n_decoder - ("no_top_skip_2d" in config.quirks and geometry.ndim == 2)
        features = geometry.features[::-1]  # deepest first
        stages, upsamplings, heads = [], [], []
        for i, placement in enumerate(_per_stage(config.decoder, n_decoder)):
            stage = geometry.n_stages - 2 - i
            joined = features[i + 1] * (2 if i < self.n_skips else 1)
            stages.append(
                builder.build_stage(placement, stage, joined, (1,) * geometry.ndim, convs[i], blocks[i])
            )
            upsamplings.append(
                upsampling(config.upsample, features[i], features[i + 1], geometry.strides[stage + 1])
            )
            heads.append(pointwise(features[i + 1], geometry.num_classes, geometry.ndim))
        self.stages = nn.ModuleList(_unwrapped(stage) for stage in stages)
        self.transpconvs = nn.ModuleList(upsamplings)  # nnU-Net's name, whatever upsamples
        self.seg_layers = nn.ModuleList(heads[-(config.n_supervised or n_decoder) :])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the logits, the largest first; the largest alone without deep supervision."""
        x, logits = features[-1], []
        without_head = len(self.stages) - len(self.seg_layers)
        for i in range(len(self.stages)):
            x = self.run(len(self.stages) - 1 - i, partial(self.upsample, i), x, features[-2 - i])
            if i == len(self.stages) - 1 or (self.deep_supervision and i >= without_head):
                logits.append(self.seg_layers[i - without_head](x))
        return logits[::-1]

    def upsample(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Run stage `i` of the decoder, counted from the deepest."""
        x = self.transpconvs[i](x)
        return self.stages[i](torch.cat((x, skip), 1) if i < self.n_skips else x)


class MetaUNet(UNet):
    """U-Net of meta-blocks."""

    def __init__(self, config: MetaConfig, sizes: Sizes, deep_supervision: bool = False):
        geometry = read_geometry(sizes)
        builder = StageBuilder(config, geometry)
        super().__init__(
            Encoder(config, geometry, builder),
            Decoder(config, geometry, builder, deep_supervision),
            multiple=geometry.total_strides[-1],
            output_strides=geometry.total_strides,
            n_stages=geometry.n_stages,
        )
        self.apply(self.initialize)
        if config.init == "zero_residual":
            zero_residuals(self)
        warn_of_whole_maps(self)

    def check(self, grid: Grid) -> None:
        super().check(grid)
        check_grid(grid, self.output_strides)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise convolutions over the grid by He's method, as nnU-Net does. Applied to every submodule,
        it leaves norms, linear layers and mixers along tokens as they are."""
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def zero_residuals(network: nn.Module) -> None:
    """Zero the last norm of every residual branch, so that each block starts as its skip."""
    for block in network.modules():
        if isinstance(block, MetaBlock) and block.placement != "ssm":
            last = cast(ConvNormAct, cast(StackedConvs, block.convs).convs[-1]).norm
            nn.init.zeros_(cast(Tensor, last.weight))
            nn.init.zeros_(cast(Tensor, last.bias))


def encoder_placements(config: MetaConfig, geometry: Geometry) -> tuple[str, ...]:
    """Return the placement of each stage, the bottleneck included."""
    n_stages, is_2d = geometry.n_stages, geometry.ndim == 2
    words = [*_per_stage(config.encoder, n_stages - 1), config.bottleneck]
    for s in range(n_stages):
        skipped = "every_second_stage_2d" in config.quirks and is_2d and (n_stages - 1 - s) % 2
        if skipped or s < n_without_mixers(config, geometry):
            words[s] = "cnn"
    return tuple(words)


def encoder_counts(config: MetaConfig, geometry: Geometry) -> tuple[list[int], list[int]]:
    """Return convolutions per block and blocks per stage."""
    if geometry.blocks is not None:
        if (
            "plain" in (*config.encoder, config.bottleneck)
            and config.mixer is None
            and config.decoder == ("plain",)
        ):
            raise ValueError(
                "n_blocks_per_stage counts residual blocks, and this network has none; use plain plans."
            )
        convs, blocks = [2] * geometry.n_stages, list(geometry.blocks)
    elif config.plan_counts == "blocks":
        convs, blocks = [2] * geometry.n_stages, list(geometry.convs)
    else:
        convs, blocks = list(geometry.convs), [1] * geometry.n_stages
    if "single_deep_blocks" in config.quirks:
        half = math.ceil(geometry.n_stages / 2)
        blocks[half:] = [1] * (geometry.n_stages - half)
    return convs, blocks


def n_without_mixers(config: MetaConfig, geometry: Geometry) -> int:
    """Return the number of the encoder's largest stages that `conv_for_top_mixers` leaves without mixers."""
    return ("conv_for_top_mixers" in config.quirks) * (2 if geometry.ndim == 2 else 3)


def added_blocks(config: MetaConfig, geometry: Geometry, stage: int) -> int:
    """Return the number of residual blocks that a stage of the encoder has in place of a mixer."""
    return int(stage < n_without_mixers(config, geometry) and (stage > 0 or geometry.ndim == 3))


def decoder_counts(config: MetaConfig, geometry: Geometry) -> tuple[list[int], list[int]]:
    """Return convolutions per block and blocks per stage, deepest first."""
    n_decoder = geometry.n_stages - 1
    if config.plan_counts == "convs":
        return list(geometry.convs_decoder), [1] * n_decoder
    blocks = list(geometry.convs_decoder)
    if "single_deep_blocks" in config.quirks:
        start = math.ceil(n_decoder / 2 + 0.5)
        blocks[start:] = [1] * (n_decoder - start)
    return [2] * n_decoder, blocks


def _per_stage(words: Sequence[str], n_stages: int) -> tuple[str, ...]:
    """Return one word per stage; the last one repeats."""
    return (*words, *[words[-1]] * n_stages)[:n_stages]


def _unwrapped(stage: nn.Sequential) -> nn.Module:
    """Return the only module of a stage instead of the stage, for the names of nnU-Net's decoder."""
    return stage[0] if len(stage) == 1 and isinstance(stage[0], StackedConvs) else stage
