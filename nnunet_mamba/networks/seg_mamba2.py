"""SegMamba-V2 (Xing et al., IEEE TMI 2025, doi:10.1109/TMI.2025.3589797) as its code is since May 2025, 3D.

Shape: (B, input_channels, D, H, W) -> logits (B, num_classes, D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nnunet_mamba.blocks.convolution import ChannelGate
from nnunet_mamba.blocks.unetr import residual_block
from nnunet_mamba.networks.geometry import Sizes, per_stage, read_fixed_features
from nnunet_mamba.networks.seg_mamba import (
    SegMambaBaseConfig,
    SegMambaEncoder,
    SegMambaUNet,
    conv_norm_relu,
    mamba_layers,
)

REDUCTION = 8  # of channels in the squeeze-and-excitation
FIRST_WITH_MAMBA = 2  # stage; those before have convolutions only


@dataclass(frozen=True)
class SegMamba2Config(SegMambaBaseConfig):
    """Config of SegMamba-V2; `depths` counts the convolution blocks of a stage and its Mamba layers."""


class LargeKernelBlock(nn.Module):
    """Residual convolutions of two depths, gate(deep(x) + shortcut(x) + x); the gate weights the sum by
    channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.deep = nn.Sequential(
            conv_norm_relu(channels, 5), conv_norm_relu(channels, 3), conv_norm_relu(channels, 3, dilation=2)
        )
        self.shortcut = nn.Sequential(conv_norm_relu(channels, 3), conv_norm_relu(channels, 1))
        self.gate = ChannelGate(channels, channels // REDUCTION)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.deep(x) + self.shortcut(x) + x)


class SegMamba2(SegMambaUNet):
    """SegMamba-V2: the image passes a residual block at full resolution, which is also the decoder's skip;
    three walks of one Mamba in the deeper half of the encoder; one output."""

    def __init__(self, config: SegMamba2Config, sizes: Sizes, deep_supervision: bool = False):
        features = read_fixed_features(config, sizes, at_least=REDUCTION)
        super().__init__(
            _encoder(config, sizes.input_channels, features),
            None,
            features,
            config,
            sizes.num_classes,
            deep_supervision,
        )


def _encoder(config: SegMamba2Config, input_channels: int, features: Sequence[int]) -> SegMambaEncoder:
    depths = per_stage("depths", config.depths, len(features))
    before = (features[0], *features)
    return SegMambaEncoder(
        residual_block(input_channels, features[0], ndim=3),
        [nn.Conv3d(above, here, 3, 2, 1) for above, here in zip(before, features, strict=False)],
        [
            nn.Sequential(*(LargeKernelBlock(f) for _ in range(depth)))
            for f, depth in zip(features, depths, strict=True)
        ],
        [
            mamba_layers(config.mixer, f, depth if stage >= FIRST_WITH_MAMBA else 0)
            for stage, (f, depth) in enumerate(zip(features, depths, strict=True))
        ],
        features,
    )
