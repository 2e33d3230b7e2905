"""Names of weights in the code of papers whose networks are rows of the meta-architecture, and ours.

They keep the Mamba or mLSTM layers of all stages in a list of their own; here each is the last step of its
stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.checkpoints.key_maps import Rule, rename_keys

# U-Mamba: a group is its residual block with conv3 as the skip (R), then nnU-Net's residual blocks (D).
_UMAMBA_BLOCK = r"(encoder\.stem|(?:encoder|decoder)\.stages\.\d+)\.(\d+)"
_UMAMBA: list[Rule] = [
    (rf"^{_UMAMBA_BLOCK}\.conv1\.(conv|norm)\.", r"\1.\2.convs.convs.0.\3."),  # D
    (rf"^{_UMAMBA_BLOCK}\.conv2\.(conv|norm)\.", r"\1.\2.convs.convs.1.\3."),
    (rf"^{_UMAMBA_BLOCK}\.(conv|norm)1\.", r"\1.\2.convs.convs.0.\3."),  # R
    (rf"^{_UMAMBA_BLOCK}\.(conv|norm)2\.", r"\1.\2.convs.convs.1.\3."),
    (rf"^{_UMAMBA_BLOCK}\.conv3\.", r"\1.\2.skip."),
    (r"^decoder\.upsample_layers\.", "decoder.transpconvs."),
]
_TAMING_BLOCK = r"^((?:encoder|decoder)\.stages\.\d+)\.blocks\.(\d+)"
_TAMING: list[Rule] = [
    (rf"{_TAMING_BLOCK}\.conv1\.", r"\1.\2.convs.convs.0."),
    (rf"{_TAMING_BLOCK}\.conv2\.", r"\1.\2.convs.convs.1."),
    (rf"{_TAMING_BLOCK}\.skip\.", r"\1.\2.skip."),
]


def convert_umamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename U-Mamba's keys. Bot has one Mamba layer, after the last stage; Enc has them after several."""
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.(\d+)\.")
    bottleneck = max(n_steps)
    return rename_keys(
        state_dict,
        [
            *_UMAMBA,
            (r"^mamba_layer\.", f"encoder.stages.{bottleneck}.{n_steps[bottleneck]}."),
            (r"^encoder\.mamba_layers\.(?P<stage>\d+)\.", lambda key: _last_step(key, n_steps)),
        ],
    )


def convert_taming_mambas(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename Taming Mambas' keys. Each stage of Uni has one sequence of layers, Bi a pair, Multi pairs."""
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.blocks\.(\d+)\.")
    layer = r"^encoder\.mamba_layers\.(?P<stage>\d+)\."

    def direction_key(key: re.Match[str]) -> str:
        pair, direction = int(key["pair"] or 0), ("fwd", "bwd").index(key["direction"])
        return f"{_last_step(key, n_steps)}walks.{2 * pair + direction}."

    def pair_norm(key: re.Match[str]) -> str:
        return f"{_last_step(key, n_steps)}pair_norms.{int(key['pair'] or 0)}."

    return rename_keys(
        state_dict,
        [
            *_TAMING,
            (rf"{layer}mambas?\.(?:(?P<pair>\d+)\.)?(?P<direction>fwd|bwd)_mamba\.", direction_key),
            (rf"{layer}mambas?\.(?:(?P<pair>\d+)\.)?norm\.", pair_norm),
            (rf"{layer}mamba\.", lambda key: f"{_last_step(key, n_steps)}walks.0."),
            (layer, lambda key: _last_step(key, n_steps)),
        ],
    )


_WALK = {"mamba_forw.": "walks.0.", "mamba_backw.": "walks.1."}


def convert_lkm_unet(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename LKM-UNet's keys. Two lists of layers, `mamba_layers` and `w_mamba_layers`, follow its stages."""
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.blocks\.(\d+)\.")

    def layer_key(key: re.Match[str]) -> str:
        layer = "window" if key["pooled"] else "pixel"
        return f"{_last_step(key, n_steps)}{layer}.{_WALK.get(key['walk'], '')}"

    layer = r"^encoder\.(?P<pooled>w_)?mamba_layers\.(?P<stage>\d+)\.(?P<walk>mamba_(?:forw|backw)\.)?"
    return rename_keys(state_dict, [*_TAMING, (layer, layer_key)])


def convert_umamba2(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename U-Mamba2's keys: nnU-Net's residual encoder U-Net, and a Mamba layer after its last stage."""
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.blocks\.(\d+)\.")
    bottleneck = max(n_steps)
    layer = (r"^mamba_layer\.", f"encoder.stages.{bottleneck}.{n_steps[bottleneck]}.")
    return rename_keys(state_dict, [*_TAMING, layer])


_MLSTM: list[Rule] = [  # within a layer
    (r"\.vil\.norm\.", ".norm."),
    (r"\.vil\.layer\.conv1d\.conv\.", ".mlstm.conv1d."),
    (r"\.vil\.layer\.mlstm_cell\.", ".mlstm."),
    (r"\.vil\.layer\.", ".mlstm."),
]


def convert_xlstm_unet(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename xLSTM-UNet's keys: U-Mamba's, with mLSTM layers or residual blocks in place of Mamba layers.

    The LayerNorm that each of its layers has and never calls is left out.
    """
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.(\d+)\.")
    bottleneck = max(n_steps)
    unused = re.compile(r"^(xlstm|encoder\.xlstm_layers\.\d+)\.norm\.")
    used = {key: value for key, value in state_dict.items() if not unused.match(key)}
    placed = rename_keys(
        rename_keys(used, _MLSTM),
        [
            (r"^xlstm\.", f"encoder.stages.{bottleneck}.{n_steps[bottleneck]}."),
            (r"^encoder\.xlstm_layers\.(?P<stage>\d+)\.", lambda key: _last_step(key, n_steps)),
        ],
    )
    return rename_keys(placed, _UMAMBA)


def _steps_per_stage(state_dict: Mapping[str, Tensor], pattern: str) -> dict[int, int]:
    """Count the blocks of each stage by keys that name the stage and the block."""
    found = {match.groups() for key in state_dict if (match := re.match(pattern, key))}
    stages = {int(stage) for stage, _ in found}
    return {stage: sum(int(s) == stage for s, _ in found) for stage in stages}


def _last_step(key: re.Match[str], n_steps: Mapping[int, int]) -> str:
    """Return our prefix for the layer after a stage, which the match names."""
    stage = int(key["stage"])
    return f"encoder.stages.{stage}.{n_steps[stage]}."
