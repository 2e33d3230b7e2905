"""Names of weights in the U-Nets of visual state space blocks, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.checkpoints.renaming import Rule, rename
from nnunet_mamba.checkpoints.unetr_sources import UNETR_DECODER

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
    return rename({key.removeprefix("vmunet."): value for key, value in state_dict.items()}, _VM_UNET)


def convert_mamba_unet(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return rename({key.removeprefix("mamba_unet."): value for key, value in state_dict.items()}, _MAMBA_UNET)


def convert_swin_umamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Swin-UMamba has a stem, its dagger variant has not."""
    return rename(state_dict, _SWIN_UMAMBA if "stem.0.weight" in state_dict else _SWIN_UMAMBA_D)
