"""Convolutional decoder of UNETR (Hatamizadeh et al., arXiv:2103.10504), which SegMamba and Swin-UMamba use:
instance norms without weights, convolutions without biases; 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.blocks.convolution import CONV_TRANSPOSE, ConvNormAct, StackedConvs, pointwise
from nnunet_mamba.blocks.meta import MetaBlock


def residual_block(in_channels: int, out_channels: int, ndim: int) -> MetaBlock:
    """Return two 3x3(x3) convolutions, with a projected skip where channels change."""
    one = (1,) * ndim
    branch = StackedConvs(
        in_channels, out_channels, (3,) * ndim, one, 2, last_act=False, bias=False, affine=False
    )
    skip = None
    if in_channels != out_channels:
        skip = ConvNormAct(in_channels, out_channels, one, act=False, bias=False, affine=False)
    return MetaBlock("cnn", branch, None, skip)


class UNETRDecoder(CheckpointedStages):
    """Decoder from inputs of every stage (full resolution first, each half as large as the one before) to
    logits.

    Each input passes a residual block on its way into the decoder, unless it enters as it is. From the
    deepest stage upwards: a transposed convolution, the skip, a residual block; at full resolution another
    residual block.

    Args:
        channels: channels of the inputs; None: the input has those of its stage and enters as it is.
        features: channels of the decoder's stages, as many as inputs.
        n_heads: number of stages with logits, from the largest.
    """

    def __init__(
        self,
        channels: Sequence[int | None],
        features: Sequence[int],
        num_classes: int,
        ndim: int,
        n_heads: int = 1,
        deep_supervision: bool = False,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.skips = nn.ModuleList(
            nn.Identity() if c is None else residual_block(c, f, ndim)
            for c, f in zip(channels, features, strict=True)
        )
        two = (2,) * ndim
        self.ups = nn.ModuleList(
            CONV_TRANSPOSE[ndim](below, here, two, two, bias=False) for here, below in pairwise(features)
        )  # by stage
        self.blocks = nn.ModuleList(residual_block(2 * here, here, ndim) for here in features[:-1])
        self.last = residual_block(features[0], features[0], ndim)
        self.seg_layers = nn.ModuleList(pointwise(f, num_classes, ndim) for f in features[:n_heads])

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return logits, the largest first; only the largest without deep supervision."""
        skips = [
            x if isinstance(skip, nn.Identity) else self.run(stage, skip, x)
            for stage, (skip, x) in enumerate(zip(self.skips, inputs, strict=True))
        ]
        x, logits = skips[-1], []
        for stage in reversed(range(len(self.ups))):
            x = self.run(stage, partial(self.upsample, stage), x, skips[stage])
            if stage == 0 or (self.deep_supervision and stage < len(self.seg_layers)):
                logits.append(self.seg_layers[stage](x))
        return logits[::-1]

    def upsample(self, stage: int, x: Tensor, skip: Tensor) -> Tensor:
        """Return the features of a stage from those of the stage below and its skip."""
        x = self.blocks[stage](torch.cat((self.ups[stage](x), skip), 1))
        return self.last(x) if stage == 0 else x
