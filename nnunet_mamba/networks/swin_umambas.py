"""Swin-UMamba and its variant with a dagger (Liu et al., arXiv:2402.03302), 2D.

Shape: (B, input_channels, H, W) -> logits (B, num_classes, H, W), or with deep supervision a list of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.unetr import UNETRDecoder
from nnunet_mamba.networks.geometry import Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.unet import UNet
from nnunet_mamba.networks.vm_unets import (
    MULTIPLE,
    ConcatenatingDecoder,
    VSSConfig,
    VSSEncoder,
    channels_first,
    linear_rates,
    output_strides,
    split_by_stage,
)


@dataclass(frozen=True)
class SwinUMambaConfig(VSSConfig):
    """Config of Swin-UMamba."""

    depths: tuple[int, ...] = (2, 2, 9, 2)

    features: ClassVar[tuple[int, ...]] = (48, 96, 192, 384, 768)
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 2, 2)
    output_strides: ClassVar[tuple[int, ...]] = (1, 2, 4, 8)


@dataclass(frozen=True)
class SwinUMambaDConfig(VSSConfig):
    """Config of Swin-UMamba-dagger.

    depths_decoder  VSS blocks per stage of the decoder, deepest first
    """

    depths: tuple[int, ...] = (2, 2, 9, 2)
    depths_decoder: tuple[int, ...] = (2, 2, 2)

    output_strides: ClassVar[tuple[int, ...]] = (1, 4, 8, 16)


class SwinUMambaEncoder(CheckpointedStages):
    """Encoder that returns the input (stage 0), the map of the stem and those of the VSS stages, all channels
    first."""

    def __init__(self, in_channels: int, features: Sequence[int], config: SwinUMambaConfig):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, features[0], 7, 2, 3), nn.InstanceNorm2d(features[0], affine=True)
        )
        self.vss = VSSEncoder(features[0], features[1:], config, patch=2, first_stage=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = self.run(1, self.stem, x)
        return [x, stem, *(channels_first(y) for y in self.vss(stem))]


class SwinUMamba(UNet):
    """Swin-UMamba: a VSS encoder, UNETR's convolutional decoder, four supervised resolutions."""

    def __init__(self, config: SwinUMambaConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        super().__init__(
            SwinUMambaEncoder(sizes.input_channels, features, config),
            UNETRDecoder(
                (sizes.input_channels, *features[:-1], None),
                (*features, features[-1]),
                sizes.num_classes,
                ndim=2,
                n_heads=4,
                deep_supervision=deep_supervision,
            ),
            MULTIPLE,
            output_strides(config),
            n_stages=len(features) + 1,
        )


class SwinUMambaD(UNet):
    """Swin-UMamba-dagger: VSS blocks in encoder and decoder, four supervised resolutions.

    Its code sets all biases to 0; here that of the patch embedding has torch's own initialisation. With 0 a
    black background is a zero vector in every block, where each LayerNorm multiplies the gradient by
    1 / sqrt(eps) = 316, and the first gradient exceeds float32.
    """

    def __init__(self, config: SwinUMambaDConfig, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes)
        depths = per_stage("depths_decoder", config.depths_decoder, len(features) - 1)
        encoder = VSSEncoder(sizes.input_channels, features, config)
        decoder = ConcatenatingDecoder(
            features,
            split_by_stage(linear_rates(config.drop_path, sum(depths))[::-1], depths),
            config.mixer_sizes(),
            sizes.num_classes,
            norms=False,
            n_heads=4,
            head_bias=True,
            deep_supervision=deep_supervision,
        )
        super().__init__(encoder, decoder, MULTIPLE, output_strides(config), len(features))
        self.apply(initialize_convolution)
        proj = encoder.patch_embed.proj
        bound = (proj.in_channels * proj.kernel_size[0] ** 2) ** -0.5
        nn.init.uniform_(cast(Tensor, proj.bias), -bound, bound)  # not 0 as in its code; see the class


def initialize_convolution(module: nn.Module) -> None:
    """Initialise convolutions by He's method, depthwise ones included, as Swin-UMamba's code does."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
