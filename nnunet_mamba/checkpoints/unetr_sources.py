"""SegMamba's names of weights, those of MONAI's UNETR blocks in it, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.checkpoints.renaming import Rule, rename

_STEP = {"conv1": "convs.convs.0", "conv2": "convs.convs.1", "conv3": "skip"}  # of a residual block


def _residual_block(key: re.Match[str]) -> str:
    """encoderN and decoderN count levels from 1; decoder1 is the block behind the last skip."""
    side, level, step = key[1], int(key[2]), _STEP[key[3]]
    if side == "encoder":
        return f"decoder.skips.{level - 1}.{step}."
    return f"decoder.blocks.{level - 2}.{step}." if level > 1 else f"decoder.last.{step}."


UNETR_DECODER: list[Rule] = [
    (r"^(encoder|decoder)(\d)\.(?:layer|conv_block)\.(conv\d)\.", _residual_block),
    (r"^decoder(\d)\.transp_conv\.conv\.", lambda key: f"decoder.ups.{int(key[1]) - 2}."),
]
_POINT = {"proj": "local.0.0", "proj2": "local.1.0", "proj3": "point.0", "proj4": "fuse.0"}
_MLP = {"fc1": "1", "fc2": "3"}
_DIRECTION = {"b": "further.0.", "s": "further.1."}  # backwards, across slices
_LAYER = r"^vit\.stages\.(\d+)\.(\d+)\."
_SEGMAMBA: list[Rule] = [
    (r"^vit\.downsample_layers\.", "encoder.downsamples."),
    (r"^vit\.gscs\.(\d+)\.(proj\d?)\.", lambda k: f"encoder.convolutions.{k[1]}.{_POINT[k[2]]}."),
    (r"^vit\.mlps\.(\d+)\.(fc\d)\.", lambda k: f"encoder.outputs.{k[1]}.{_MLP[k[2]]}."),
    (
        rf"{_LAYER}mamba\.A_([bs])_log",
        lambda k: f"encoder.stages.{k[1]}.{k[2]}.mixer.mamba.{_DIRECTION[k[3]]}A_log",
    ),
    (
        rf"{_LAYER}mamba\.(D|conv1d|x_proj|dt_proj)_([bs])",
        lambda k: f"encoder.stages.{k[1]}.{k[2]}.mixer.mamba.{_DIRECTION[k[4]]}{k[3]}",
    ),
    (_LAYER, r"encoder.stages.\1.\2.mixer."),
    (r"^out\.conv\.conv\.", "decoder.seg_layers.0."),
]


def convert_segmamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return rename(state_dict, [*_SEGMAMBA, *UNETR_DECODER])
