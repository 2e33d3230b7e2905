"""The U-Nets of visual state space blocks, 2D.

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
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.unetr import UNETRDecoder
from nnunet_mamba.blocks.vss import PatchEmbed, PatchExpand, PatchMerging, vss_stage
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.geometry import Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.unet import UNet

MixerSizes = dict[str, int | str] | None
MULTIPLE = (32, 32)


@dataclass(frozen=True)
class VSSConfig(FixedConfig):
    """depths     VSS blocks per stage of the encoder
    drop_path  the highest rate of stochastic depth; it rises from 0 with depth
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    drop_path: float = 0.2

    mixer_kinds: ClassVar[tuple[str, ...]] = ("vss",)
    ndim: ClassVar[int] = 2
    features: ClassVar[tuple[int, ...]] = (96, 192, 384, 768)
    strides: ClassVar[tuple[int, ...]] = (4, 2, 2, 2)

    def mixer_sizes(self) -> MixerSizes:
        """Arguments of SS2D."""
        return self.mixer.module_options() if self.mixer else None


@dataclass(frozen=True)
class VMUNetConfig(VSSConfig):
    """depths_decoder  VSS blocks per stage of the decoder, deepest first"""

    depths_decoder: tuple[int, ...] = (2, 2, 2, 1)


@dataclass(frozen=True)
class MambaUNetConfig(VSSConfig):
    """depths_decoder  VSS blocks per level of the decoder, deepest first; None: the encoder's, mirrored"""

    depths_decoder: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SwinUMambaConfig(VSSConfig):
    depths: tuple[int, ...] = (2, 2, 9, 2)

    features: ClassVar[tuple[int, ...]] = (48, 96, 192, 384, 768)
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 2, 2)
    output_strides: ClassVar[tuple[int, ...]] = (1, 2, 4, 8)


@dataclass(frozen=True)
class SwinUMambaDConfig(VSSConfig):
    """depths_decoder  VSS blocks per level of the decoder, deepest first"""

    depths: tuple[int, ...] = (2, 2, 9, 2)
    depths_decoder: tuple[int, ...] = (2, 2, 2)

    output_strides: ClassVar[tuple[int, ...]] = (1, 4, 8, 16)


class VSSEncoder(CheckpointedStages):
    """(B, C, H, W) -> maps of every stage, channels last: `skips_before` its blocks and at last its result,
    as in [1] and [2], or behind them.

    A single input channel is repeated to three where `grey_as_colour`, as in [1] and [2].
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
        first_level: int = 0,
    ):
        super().__init__()
        if any(below != 2 * above for above, below in pairwise(features)):
            raise ValueError(f"From one VSS stage to the next features double; got {list(features)}.")
        depths = per_stage("depths", config.depths, len(features))
        self.skips_before, self.first_level = skips_before, first_level
        self.repeats = 3 if grey_as_colour and in_channels == 1 else 1
        self.patch_embed = PatchEmbed(self.repeats * in_channels, features[0], patch)
        rates = split(rising(config.drop_path, sum(depths)), depths)
        self.layers = nn.ModuleList(
            vss_stage(f, stage, config.mixer_sizes()) for f, stage in zip(features, rates, strict=True)
        )
        self.downsamples = nn.ModuleList(PatchMerging(f) for f in features[:-1])
        self.apply(initialize_linear)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.repeat(1, self.repeats, 1, 1) if self.repeats > 1 else x
        maps = []
        for stage in range(len(self.layers)):
            before, x = self.run(self.first_level + stage, partial(self.reduce, stage), x)
            maps.append(before if self.skips_before else x)
        return [*maps, x] if self.skips_before else maps

    def reduce(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map of a stage before and behind its blocks."""
        x = self.downsamples[stage - 1](x) if stage else self.patch_embed(x)
        return x, self.layers[stage](x)


class AddingDecoder(CheckpointedStages):
    """VM-UNet's: skips are added before each enlargement, and that of the largest grid is not used [1]."""

    def __init__(
        self, features: Sequence[int], config: VMUNetConfig, num_classes: int, deep_supervision: bool
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        depths = per_stage("depths_decoder", config.depths_decoder, len(features))
        rates = split(rising(config.drop_path, sum(depths))[::-1], depths)
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
            x = self.run(deepest - 1 - i, partial(self.enlarge, i), x, skips[-1 - i])
        return [self.seg_layers[0](channels_first(self.run(0, self.final_expand, x)))]

    def enlarge(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Stage `i` of the decoder, counted from the deepest."""
        return self.layers[i + 1](self.expands[i](x + skip))


class ConcatenatingDecoder(CheckpointedStages):
    """Mamba-UNet's [2] and Swin-UMamba-dagger's [3]: enlarge, concatenate the skip, reduce, VSS blocks.

    Args:
        rates: drop path of every block, per level, deepest first.
        norms: whether the deepest and the last map are normalised, as in [2].
        n_heads: 1, or one per level and one for the enlarged last map; [3] supervises them all.
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
            vss_stage(f, level, mixer) for f, level in zip(upwards[1:], rates, strict=True)
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
            x = self.run(n - 1 - i, partial(self.enlarge, i), x, maps[n - 1 - i])
            if self.deep_supervision and len(self.seg_layers) > 1:
                logits.append(self.seg_layers[i](channels_first(x)))
        x = self.run(0, self.enlarge_last, x)
        return [self.seg_layers[-1](channels_first(x)), *logits[::-1]]

    def enlarge(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """Stage `i` of the decoder, counted from the deepest."""
        return self.layers[i](self.reductions[i](torch.cat((self.expands[i](x), skip), dim=-1)))

    def enlarge_last(self, x: Tensor) -> Tensor:
        return self.final_expand(self.norm_last(x))


class VMUNet(UNet):
    """VM-UNet [1]; one output, and always logits."""

    def __init__(self, config: VMUNetConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        super().__init__(
            VSSEncoder(sizes.input_channels, features, config, skips_before=True, grey_as_colour=True),
            AddingDecoder(features, config, sizes.num_classes, deep_supervision),
            MULTIPLE,
            output_grids(config),
            n_levels=len(features),
        )


class MambaUNet(UNet):
    """Mamba-UNet [2]; one output."""

    def __init__(self, config: MambaUNetConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        encoder = VSSEncoder(sizes.input_channels, features, config, skips_before=True, grey_as_colour=True)
        depths = per_stage("depths", config.depths, len(features))
        rates = split(rising(config.drop_path, sum(depths)), depths)[-2::-1]  # the encoder's at each level
        if config.depths_decoder is not None:
            depths_decoder = per_stage("depths_decoder", config.depths_decoder, len(features) - 1)
            rates = split(rising(config.drop_path, sum(depths_decoder))[::-1], depths_decoder)
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
        super().__init__(encoder, decoder, MULTIPLE, output_grids(config), len(features))


class SwinUMambaEncoder(CheckpointedStages):
    """The input (level 0), a convolutional stem's map and those of the VSS stages, channels first [3]."""

    def __init__(self, in_channels: int, features: Sequence[int], config: SwinUMambaConfig):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, features[0], 7, 2, 3), nn.InstanceNorm2d(features[0], affine=True)
        )
        self.vss = VSSEncoder(features[0], features[1:], config, patch=2, first_level=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = self.run(1, self.stem, x)
        return [x, stem, *(channels_first(y) for y in self.vss(stem))]


class SwinUMamba(UNet):
    """Swin-UMamba [3]: a VSS encoder, UNETR's convolutional decoder, four supervised resolutions."""

    def __init__(self, config: SwinUMambaConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        super().__init__(
            SwinUMambaEncoder(sizes.input_channels, features, config),
            UNETRDecoder(
                (sizes.input_channels, *features),
                features,
                sizes.num_classes,
                ndim=2,
                n_heads=4,
                deep_supervision=deep_supervision,
            ),
            MULTIPLE,
            output_grids(config),
            n_levels=len(features) + 1,
        )


class SwinUMambaD(UNet):
    """Swin-UMamba-dagger [3]: VSS blocks in encoder and decoder, four supervised resolutions.

    One bias begins otherwise than in its code, which sets all to 0: that of the patch embedding has torch's
    own initialisation. With 0 a black background is a zero vector in every block, where each LayerNorm
    multiplies the gradient by 1 / sqrt(eps) = 316, and the first gradient exceeds float32.
    """

    def __init__(self, config: SwinUMambaDConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        depths = per_stage("depths_decoder", config.depths_decoder, len(features) - 1)
        encoder = VSSEncoder(sizes.input_channels, features, config)
        decoder = ConcatenatingDecoder(
            features,
            split(rising(config.drop_path, sum(depths))[::-1], depths),
            config.mixer_sizes(),
            sizes.num_classes,
            norms=False,
            n_heads=4,
            head_bias=True,
            deep_supervision=deep_supervision,
        )
        super().__init__(encoder, decoder, MULTIPLE, output_grids(config), len(features))
        self.apply(initialize_convolution)
        proj = encoder.patch_embed.proj
        bound = (proj.in_channels * proj.kernel_size[0] ** 2) ** -0.5
        nn.init.uniform_(cast(Tensor, proj.bias), -bound, bound)  # not 0 as in [3]; see the class


def output_grids(config: FixedConfig) -> tuple[tuple[int, ...], ...]:
    return tuple((stride,) * config.ndim for stride in config.output_strides)


def rising(rate: float, n: int) -> list[float]:
    """`n` numbers from 0 to `rate`."""
    return torch.linspace(0, rate, n, device="cpu").tolist()


def split(rates: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """The rates of consecutive stages with so many blocks."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [list(rates[end - n : end]) for end, n in zip(ends, counts, strict=True)]


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def initialize_linear(module: nn.Module) -> None:
    """Linear layers as in VMamba; all else keeps what it has."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialize_convolution(module: nn.Module) -> None:
    """He's initialisation, depthwise convolutions included, as the code of [3] has it."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
