"""U-Mamba's and Taming Mambas' names of weights, and ours.

Both put a stage's Mamba layer into a list of its own; with us it is the last step of its stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.checkpoints.renaming import Rule, rename

# U-Mamba: a group is its residual block with conv3 as the way around (R), then nnU-Net's residual blocks (D).
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
    """U-Mamba Bot has one Mamba layer, behind the last stage; Enc has them behind several."""
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.(\d+)\.")
    bottleneck = max(n_steps)
    return rename(
        state_dict,
        [
            *_UMAMBA,
            (r"^mamba_layer\.", f"encoder.stages.{bottleneck}.{n_steps[bottleneck]}."),
            (r"^encoder\.mamba_layers\.(\d+)\.", lambda key: _last_step(key, n_steps)),
        ],
    )


def convert_taming_mambas(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Uni has one sequence of layers per stage, Bi a pair, Multi several pairs."""
    n_steps = _steps_per_stage(state_dict, r"^encoder\.stages\.(\d+)\.blocks\.(\d+)\.")
    layer = r"^encoder\.mamba_layers\.(\d+)\."

    def direction_key(key: re.Match[str]) -> str:
        pair, direction = int(key["pair"] or 0), ("fwd", "bwd").index(key["direction"])
        return f"{_last_step(key, n_steps)}walks.{2 * pair + direction}."

    def pair_norm(key: re.Match[str]) -> str:
        return f"{_last_step(key, n_steps)}pair_norms.{int(key['pair'] or 0)}."

    return rename(
        state_dict,
        [
            *_TAMING,
            (rf"{layer}mambas?\.(?:(?P<pair>\d+)\.)?(?P<direction>fwd|bwd)_mamba\.", direction_key),
            (rf"{layer}mambas?\.(?:(?P<pair>\d+)\.)?norm\.", pair_norm),
            (rf"{layer}mamba\.", lambda key: f"{_last_step(key, n_steps)}walks.0."),
            (layer, lambda key: _last_step(key, n_steps)),
        ],
    )


def _steps_per_stage(state_dict: Mapping[str, Tensor], pattern: str) -> dict[int, int]:
    """Blocks per stage, by keys that name the stage and the block."""
    found = {match.groups() for key in state_dict if (match := re.match(pattern, key))}
    stages = {int(stage) for stage, _ in found}
    return {stage: sum(int(s) == stage for s, _ in found) for stage in stages}


def _last_step(key: re.Match[str], n_steps: Mapping[int, int]) -> str:
    """Where the Mamba layer of a stage (the first group of the match) stands with us."""
    stage = int(key[1])
    return f"encoder.stages.{stage}.{n_steps[stage]}."
