"""Names of weights in the code of LightM-UNet, SegMamba-V2 and nnMamba, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.checkpoints.key_maps import SEGMAMBAS, STEP, Rule, rename_keys


def _reducer(key: re.Match[str]) -> str:
    """Return our prefix for the reducer before a stage."""
    return f"encoder.reducers.{int(key[1]) - 1}.0."


def _light_block(key: re.Match[str]) -> str:
    """Return our prefix for a norm or a Mamba layer of an encoder block, which theirs number from 1 behind
    the reducer of a stage."""
    part = {"norm1": 0, "conv1": 2, "norm2": 3, "conv2": 5}[key[3]]
    return f"encoder.stages.{key[1]}.{int(key[2]) - 1}.branch.{part}."


_UP_PART = {"norm1": "convs.0", "conv.0.conv": "convs.2", "conv.1.conv": "convs.3", "norm2": "norm_relu.0"}
_LIGHTM_UNET: list[Rule] = [
    (r"^convInit\.(\d)\.conv\.", r"encoder.stem.\1."),
    (r"^down_layers\.(\d+)\.0\.0\.", _reducer),
    (r"^down_layers\.(\d+)\.(\d+)\.(norm\d|conv\d)\.", _light_block),
    (r"^up_samples\.(\d+)\.0\.conv\.", r"decoder.ups.\1.0."),
    (
        r"^up_layers\.(\d+)\.(\d+)\.(norm\d|conv\.\d\.conv)\.",
        lambda key: f"decoder.stages.{key[1]}.{key[2]}.{_UP_PART[key[3]]}.",
    ),
    (r"^up_layers\.", "decoder.stages."),
    (r"^conv_final\.0\.", "decoder.seg_layers.0.0."),
    (r"^conv_final\.2\.(\d)\.conv\.", lambda key: f"decoder.seg_layers.0.{int(key[1]) + 2}."),
]


def convert_lightm_unet(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename LightM-UNet's keys."""
    renamed = rename_keys(state_dict, _LIGHTM_UNET)
    return rename_keys(renamed, [(r"^(encoder\..*)\.mamba\.", r"\1.mixer.")])


_BLOCK = r"^vit\.gscs\.(\d+\.\d+)"
_SEGMAMBA_V2: list[Rule] = [
    (r"^encoder1\.layer\.(conv\d)\.", lambda key: f"encoder.stem.{STEP[key[1]]}."),
    (r"^vit\.downsample_layers\.(\d+)\.0\.", r"encoder.downsamples.\1."),
    (rf"{_BLOCK}\.(deep|shortcut)_path\.(\d)\.block\.0\.", r"encoder.convolutions.\1.\2.\3.0."),
    (rf"{_BLOCK}\.se\.fc\.", r"encoder.convolutions.\1.gate."),
    *SEGMAMBAS,
]


def convert_segmamba_v2(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename SegMamba-V2's keys."""
    return rename_keys(state_dict, _SEGMAMBA_V2)


_CONVS = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}  # of a residual block
_BRANCH = {"nin": "enter.0", "norm": "enter.1", "mamba": "mixer.mamba", "nin2": "leave.0", "norm2": "leave.1"}


def _nnmamba_block(key: re.Match[str]) -> str:
    """Return our prefix for a residual block, of which the first has a name of its own."""
    block = int(key[2])
    return f"encoder.stages.{int(key[1]) - 1}." + (f"blocks.{block - 1}." if block else "first.")


_LAYER = r"^layer(\d)\.(\d+)\."
_NNMAMBA: list[Rule] = [
    (r"^in_conv\.conv\.", "encoder.stem."),
    (rf"{_LAYER}mamba_layer\.(\w+)\.", lambda k: f"encoder.stages.{int(k[1]) - 1}.branch.{_BRANCH[k[3]]}."),
    (rf"{_LAYER}((?:conv|bn)\d)\.", lambda k: f"{_nnmamba_block(k)}convs.{_CONVS[k[3]]}."),
    (rf"{_LAYER}downsample\.", lambda k: f"{_nnmamba_block(k)}skip."),
    (r"^att(\d)\.layer(\d)\.", lambda k: f"decoder.gates.{3 - int(k[1])}.{2 * int(k[2]) - 2}."),
    (r"^conv8\.conv\.", "decoder.seg_layers.0."),
    (r"^conv(\d)\.conv\.", lambda k: f"decoder.blocks.{int(k[1]) - 5}."),
]


def convert_nnmamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename nnMamba's keys. A stage has one Mamba branch, which its code saves again for each block."""
    again = re.compile(r"layer\d\.(?!1\.)\d+\.mamba_layer\.")
    return rename_keys({key: value for key, value in state_dict.items() if not again.match(key)}, _NNMAMBA)
