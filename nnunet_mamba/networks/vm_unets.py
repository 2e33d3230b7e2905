"""VM-UNet [1] and Mamba-UNet [2], 2D, and the parts that they share with Swin-UMamba [3].

Shape: (B, input_channels, H, W) -> logits (B, num_classes, H, W), or with deep supervision a list of them.
Inside, channels are last.

[1] Ruan and Xiang, VM-UNet, arXiv:2402.02491.
[2] Wang et al., Mamba-UNet, arXiv:2402.05079.
[3] Liu et al., Swin-UMamba, arXiv:2402.03302.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.vss import PatchEmbed, PatchExpand, PatchMerging, vss_stage
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.geometry import Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.unet import UNet

MixerSizes = dict[str, Any] | None
MULTIPLE = (32, 32)


@dataclass(frozen=True)
class VSSConfig(FixedConfig):
    """Config of a U-Net of VSS blocks.

    depths     VSS blocks per stage of the encoder
    drop_path  the highest rate of stochastic depth; it rises from 0 with depth
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    drop_path: float = 0.2

    mixer_kinds: ClassVar[tuple[str, ...]] = ("vss",)
    ndims: ClassVar[tuple[int, ...]] = (2,)
    features: ClassVar[tuple[int, ...]] = (96, 192, 384, 768)
    strides: ClassVar[tuple[int, ...]] = (4, 2, 2, 2)

    def mixer_sizes(self) -> MixerSizes:
        """Return the arguments of SS2D; None without a mixer."""
        return self.mixer.module_options() if self.mixer else None


@dataclass(frozen=True)
class VMUNetConfig(VSSConfig):
    """Config of VM-UNet.

    depths_decoder  VSS blocks per stage of the decoder, deepest first
    """

    depths_decoder: tuple[int, ...] = (2, 2, 2, 1)


@dataclass(frozen=True)
class MambaUNetConfig(VSSConfig):
    """Config of Mamba-UNet.

    depths_decoder  VSS blocks per stage of the decoder, deepest first; None: the encoder's, mirrored
    """

    depths_decoder: tuple[int, ...] | None = None


class VSSEncoder(CheckpointedStages):
    """Patch embedding and stages of VSS blocks.

    Args:
        patch: edge of the patches that become tokens, in voxels.
        skips_before: return the map before the blocks of each stage, and at last the encoder's output, as in
            [1] and [2]; else the map after the blocks of each stage.
        grey_as_colour: repeat a single input channel to three, as in [1] and [2].
        first_stage: number of the first stage, for activation checkpointing.

    Shape: (B, C, H, W) -> list of (B, h, w, channels)
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        config: VSSConfig,
        *,
        patch: int = 4,
        skips_before: bool = False,
        grey_as_colour: bool = False,
        first_stage: int = 0,
    ):
        super().__init__()
        if any(below != 2 * above for above, below in pairwise(features)):
            raise ValueError(f"From one VSS stage to the next features double; got {list(features)}.")
        depths = per_stage("depths", config.depths, len(features))
        self.skips_before, self.first_stage = skips_before, first_stage
        self.repeats = 3 if grey_as_colour and in_channels == 1 else 1
        self.patch_embed = PatchEmbed(self.repeats * in_channels, features[0], patch)
        rates = split_by_stage(linear_rates(config.drop_path, sum(depths)), depths)
        self.layers = nn.ModuleList(
            vss_stage(f, stage, config.mixer_sizes()) for f, stage in zip(features, rates, strict=True)
        )
        self.downsamples = nn.ModuleList(PatchMerging(f) for f in features[:-1])
        self.apply(initialize_linear)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.repeat(1, self.repeats, 1, 1) if self.repeats > 1 else x
        maps = []
        for stage in range(len(self.layers)):
            before, x = self.run(self.first_stage + stage, partial(self.downsample, stage), x)
            maps.append(before if self.skips_before else x)
        return [*maps, x] if self.skips_before else maps

    def downsample(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map of a stage before and after its blocks."""
        x = self.downsamples[stage - 1](x) if stage else self.patch_embed(x)
        return x, self.layers[stage](x)


class AddingDecoder(CheckpointedStages):
    """Decoder of VM-UNet: a skip is added before each upsampling, and the largest one is not used [1]."""

    def __init__(
        self, features: Sequence[int], config: VMUNetConfig, num_classes: int, deep_supervision: bool
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        depths = per_stage("depths_decoder", config.depths_decoder, len(features))
        rates = split_by_stage(linear_rates(config.drop_path, sum(depths))[::-1], depths)
        upwards = features[::-1]
        self.layers = nn.ModuleList(
            vss_stage(f, stage, config.mixer_sizes()) for f, stage in zip(upwards, rates, strict=True)
        )
        self.expands = nn.ModuleList(PatchExpand(below, above) for below, above in pairwise(upwards))
        self.final_expand = PatchExpand(features[0], features[0] // 4, 4)
        self.seg_layers = nn.ModuleList([nn.Conv2d(features[0] // 4, num_classes, 1)])
        self.apply(initialize_linear)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        *skips, x = maps
        deepest = len(self.expands)
        x = self.run(deepest, self.layers[0], x)
        for i in range(deepest):
            x = self.run(deepest - 1 - i, partial(self.upsample, i), x, skips[-1 - i])
        return [self.seg_layers[0](channels_first(self.run(0, self.final_expand, x)))]

    def upsample(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Run stage `i` of the decoder, counted from the deepest."""
        return self.layers[i + 1](self.expands[i](x + skip))


class ConcatenatingDecoder(CheckpointedStages):
    """Decoder of Mamba-UNet [2] and Swin-UMamba-dagger [3]: upsample, concatenate the skip, project, blocks.

    Args:
        rates: drop path of every block, per stage, deepest first.
        norms: normalise the deepest and the last map, as in [2].
        n_heads: 1, or one per stage and one for the upsampled last map; [3] supervises them all.
    """

    def __init__(
        self,
        features: Sequence[int],
        rates: Sequence[Sequence[float]],
        mixer: MixerSizes,
        num_classes: int,
        *,
        norms: bool,
        n_heads: int,
        head_bias: bool,
        deep_supervision: bool,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        upwards = features[::-1]
        self.norm = nn.LayerNorm(upwards[0]) if norms else nn.Identity()
        self.expands = nn.ModuleList(PatchExpand(below, above) for below, above in pairwise(upwards))
        self.reductions = nn.ModuleList(nn.Linear(2 * f, f) for f in upwards[1:])
        self.layers = nn.ModuleList(
            vss_stage(f, stage, mixer) for f, stage in zip(upwards[1:], rates, strict=True)
        )
        self.norm_last = nn.LayerNorm(features[0]) if norms else nn.Identity()
        self.final_expand = PatchExpand(features[0], features[0], 4)
        self.seg_layers = nn.ModuleList(
            nn.Conv2d(f, num_classes, 1, bias=head_bias) for f in (*upwards[1:], features[0])[-n_heads:]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, logits = self.norm(maps[-1]), []
        n = len(self.layers)
        for i in range(n):
            x = self.run(n - 1 - i, partial(self.upsample, i), x, maps[n - 1 - i])
            if self.deep_supervision and len(self.seg_layers) > 1:
                logits.append(self.seg_layers[i](channels_first(x)))
        x = self.run(0, self.upsample_last, x)
        return [self.seg_layers[-1](channels_first(x)), *logits[::-1]]

    def upsample(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Run stage `i` of the decoder, counted from the deepest."""
        return self.layers[i](self.reductions[i](torch.cat((self.expands[i](x), skip), dim=-1)))

    def upsample_last(self, x: Tensor) -> Tensor:
        return self.final_expand(self.norm_last(x))


class VMUNet(UNet):
    """VM-UNet [1]; one output, always logits."""

    def __init__(self, config: VMUNetConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        super().__init__(
            VSSEncoder(sizes.input_channels, features, config, skips_before=True, grey_as_colour=True),
            AddingDecoder(features, config, sizes.num_classes, deep_supervision),
            MULTIPLE,
            output_strides(config),
            n_stages=len(features),
        )


class MambaUNet(UNet):
    """Mamba-UNet [2]; one output."""

    def __init__(self, config: MambaUNetConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        encoder = VSSEncoder(sizes.input_channels, features, config, skips_before=True, grey_as_colour=True)
        depths = per_stage("depths", config.depths, len(features))
        rates = split_by_stage(linear_rates(config.drop_path, sum(depths)), depths)[-2::-1]  # the encoder's
        if config.depths_decoder is not None:
            depths_decoder = per_stage("depths_decoder", config.depths_decoder, len(features) - 1)
            rates = split_by_stage(linear_rates(config.drop_path, sum(depths_decoder))[::-1], depths_decoder)
        decoder = ConcatenatingDecoder(
            features,
            rates,
            config.mixer_sizes(),
            sizes.num_classes,
            norms=True,
            n_heads=1,
            head_bias=False,
            deep_supervision=deep_supervision,
        )
        decoder.apply(initialize_linear)
        super().__init__(encoder, decoder, MULTIPLE, output_strides(config), len(features))


def output_strides(config: FixedConfig) -> tuple[tuple[int, ...], ...]:
    """Return the strides of the outputs, one entry per axis."""
    return tuple((stride,) * len(MULTIPLE) for stride in config.output_strides)


def linear_rates(rate: float, n: int) -> list[float]:
    """Return `n` rates that rise from 0 to `rate`."""
    return torch.linspace(0, rate, n, device="cpu").tolist()


def split_by_stage(rates: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """Split the rates of all blocks into those of each stage, of which `counts` has the blocks."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [list(rates[end - n : end]) for end, n in zip(ends, counts, strict=True)]


def channels_first(x: Tensor) -> Tensor:
    """Permute (B, H, W, C) to (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def initialize_linear(module: nn.Module) -> None:
    """Initialise linear layers as VMamba does; leave all other modules as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
