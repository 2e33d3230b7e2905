"""Names of weights in the papers' own code, and ours. Values are never changed, only names.

A rule is a pattern and its replacement. SegMamba's decoder is MONAI's UNETR.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

Result = str | Callable[[re.Match[str]], str]
Rule = tuple[str, Result]


def rename_keys(state_dict: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Return the state dict with each key renamed by the first rule that matches it; other keys stay."""
    compiled = [(re.compile(pattern), result) for pattern, result in rules]
    return {_rename_key(key, compiled): value for key, value in state_dict.items()}


def _rename_key(key: str, rules: Iterable[tuple[re.Pattern[str], Result]]) -> str:
    for pattern, result in rules:
        key, n_hits = pattern.subn(result, key)
        if n_hits:
            return key
    return key


STEP = {"conv1": "convs.convs.0", "conv2": "convs.convs.1", "conv3": "skip"}  # of a residual block


def _residual_block(key: re.Match[str]) -> str:
    """Return our prefix for encoderN or decoderN, where N counts stages from 1. MONAI's decoder1 is the block
    after the last skip."""
    side, stage, step = key[1], int(key[2]), STEP[key[3]]
    if side == "encoder":
        return f"decoder.skips.{stage - 1}.{step}."
    return f"decoder.blocks.{stage - 2}.{step}." if stage > 1 else f"decoder.last.{step}."


UNETR_DECODER: list[Rule] = [
    (r"^(encoder|decoder)(\d)\.(?:layer|conv_block)\.(conv\d)\.", _residual_block),
    (r"^decoder(\d)\.transp_conv\.conv\.", lambda key: f"decoder.ups.{int(key[1]) - 2}."),
]
_POINT = {"proj": "local.0.0", "proj2": "local.1.0", "proj3": "point.0", "proj4": "fuse.0"}
_MLP = {"fc1": "1", "fc2": "3"}
_DIRECTION = {"b": "further.0.", "s": "further.1."}  # backwards, across slices
_LAYER = r"^vit\.stages\.(\d+)\.(\d+)\."
SEGMAMBAS: list[Rule] = [  # both versions
    (r"^vit\.mlps\.(\d+)\.(fc\d)\.", lambda k: f"encoder.outputs.{k[1]}.{_MLP[k[2]]}."),
    (_LAYER, r"encoder.stages.\1.\2.mixer."),
    (r"^out\.conv\.conv\.", "decoder.seg_layers.0."),
    *UNETR_DECODER,
]
_SEGMAMBA: list[Rule] = [
    (r"^vit\.downsample_layers\.", "encoder.downsamples."),
    (r"^vit\.gscs\.(\d+)\.(proj\d?)\.", lambda k: f"encoder.convolutions.{k[1]}.{_POINT[k[2]]}."),
    (
        rf"{_LAYER}mamba\.A_([bs])_log",
        lambda k: f"encoder.stages.{k[1]}.{k[2]}.mixer.mamba.{_DIRECTION[k[3]]}A_log",
    ),
    (
        rf"{_LAYER}mamba\.(D|conv1d|x_proj|dt_proj)_([bs])",
        lambda k: f"encoder.stages.{k[1]}.{k[2]}.mixer.mamba.{_DIRECTION[k[4]]}{k[3]}",
    ),
    *SEGMAMBAS,
]


def convert_segmamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename SegMamba's keys."""
    return rename_keys(state_dict, _SEGMAMBA)


ENCODER: list[Rule] = [  # VMamba's own names
    (r"^layers\.(\d+)\.blocks\.", r"encoder.layers.\1."),
    (r"^layers\.(\d+)\.downsample\.", r"encoder.downsamples.\1."),
    (r"^patch_embed\.", "encoder.patch_embed."),
]
_VM_UNET: list[Rule] = [
    (r"^layers_up\.(\d+)\.blocks\.", r"decoder.layers.\1."),
    (r"^layers_up\.(\d+)\.upsample\.", lambda key: f"decoder.expands.{int(key[1]) - 1}."),
    (r"^final_up\.", "decoder.final_expand."),
    (r"^final_conv\.", "decoder.seg_layers.0."),
    *ENCODER,
]
_MAMBA_UNET: list[Rule] = [
    (r"^layers_up\.(\d+)\.blocks\.", lambda key: f"decoder.layers.{int(key[1]) - 1}."),
    (r"^layers_up\.(\d+)\.(?:upsample\.)?(expand|norm)\.", r"decoder.expands.\1.\2."),
    (r"^concat_back_dim\.(\d+)\.", lambda key: f"decoder.reductions.{int(key[1]) - 1}."),
    (r"^norm\.", "decoder.norm."),
    (r"^norm_up\.", "decoder.norm_last."),
    (r"^up\.", "decoder.final_expand."),
    (r"^output\.", "decoder.seg_layers.0."),
    *ENCODER,
]
_SWIN_UMAMBA: list[Rule] = [
    (r"^stem\.", "encoder.stem."),
    (r"^vssm_encoder\.layers\.(\d+)\.blocks\.", r"encoder.vss.layers.\1."),
    (r"^vssm_encoder\.", "encoder.vss."),
    (r"^out_layers\.(\d+)\.conv\.conv\.", r"decoder.seg_layers.\1."),
    *UNETR_DECODER,
]
_SWIN_UMAMBA_D: list[Rule] = [
    (r"^vssm_encoder\.layers\.(\d+)\.blocks\.", r"encoder.layers.\1."),
    (r"^vssm_encoder\.", "encoder."),
    (r"^decoder\.stages\.(\d+)\.blocks\.", r"decoder.layers.\1."),
    (r"^decoder\.expand_layers\.3\.", "decoder.final_expand."),
    (r"^decoder\.expand_layers\.", "decoder.expands."),
    (r"^decoder\.concat_back_dim\.", "decoder.reductions."),
]


def convert_vm_unet(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename VM-UNet's keys."""
    return rename_keys({key.removeprefix("vmunet."): value for key, value in state_dict.items()}, _VM_UNET)


def convert_mamba_unet(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename Mamba-UNet's keys."""
    return rename_keys(
        {key.removeprefix("mamba_unet."): value for key, value in state_dict.items()}, _MAMBA_UNET
    )


def convert_swin_umamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename the keys of Swin-UMamba, which has a stem, or of its dagger variant, which has none."""
    return rename_keys(state_dict, _SWIN_UMAMBA if "stem.0.weight" in state_dict else _SWIN_UMAMBA_D)
