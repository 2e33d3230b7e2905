"""State dicts of the papers' own code, renamed to ours. Values are never changed, only names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.networks.unet import is_alias

Rules = list[tuple[str, str]]

# U-Mamba: a group is its residual block with conv3 as the way around (R), then nnU-Net's residual blocks (D).
_BLOCK = r"(encoder\.stem|(?:encoder|decoder)\.stages\.\d+)\.(\d+)"
_UMAMBA: Rules = [
    (rf"^{_BLOCK}\.conv([12])\.(conv|norm)\.", r"\1.\2.convs.convs.{\3}.\4."),  # D
    (rf"^{_BLOCK}\.(conv|norm)([12])\.", r"\1.\2.convs.convs.{\4}.\3."),  # R
    (rf"^{_BLOCK}\.conv3\.", r"\1.\2.skip."),
    (r"^decoder\.upsample_layers\.", "decoder.transpconvs."),
]


def _rename(key: str, rules: Rules) -> str:
    """The key under the first rule that fits; {n} in a rule counts from 0 what the source counts from 1."""
    for pattern, result in rules:
        key, n_hits = re.subn(pattern, result, key)
        if n_hits:
            return re.sub(r"\{(\d+)\}", lambda number: str(int(number.group(1)) - 1), key)
    return key


def _convert_umamba(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Mamba layer becomes the last step of the last encoder stage."""
    bottleneck = max(
        int(m.group(1)) for key in state_dict if (m := re.match(r"encoder\.stages\.(\d+)\.", key))
    )
    steps = {
        int(m.group(1))
        for key in state_dict
        if (m := re.match(rf"encoder\.stages\.{bottleneck}\.(\d+)\.", key))
    }
    rules = [*_UMAMBA, (r"^mamba_layer\.", f"encoder.stages.{bottleneck}.{len(steps)}.")]
    return {_rename(key, rules): value for key, value in state_dict.items()}


CONVERTERS: dict[str, tuple[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "umamba": ("encoder.stages.0.0.conv3.weight", _convert_umamba),  # with a key that no other code has
}


def convert_state_dict(state_dict: Mapping[str, Tensor], source: str, **config: Any) -> dict[str, Tensor]:
    """Weights of a paper's own code under the names of our network, which then loads them strictly.

    Args:
        state_dict: as its network's `state_dict()` gave it, with or without the prefixes that
            DistributedDataParallel and torch.compile leave, and the second names that nnU-Net's networks give
            to one weight.
        source: "umamba" (U-Mamba Bot, 2D and 3D, code since March 2024).
        config: arguments of `create_network`, for sources whose keys do not tell the sizes; "umamba" needs
            none.

    Raises ValueError if the source is unknown, or the keys are not that source's.
    """
    if source not in CONVERTERS:
        raise ValueError(f"Unknown source {source!r}; choose one of {', '.join(CONVERTERS)}.")
    mark, convert = CONVERTERS[source]
    prefix = re.compile(r"^(?:_orig_mod\.|module\.)+")
    plain = {prefix.sub("", key): value for key, value in state_dict.items()}
    own = {key: value for key, value in plain.items() if not is_alias(key)}
    if mark not in own:
        raise ValueError(
            f"This is no state dict of {source}: {mark} is missing among its {len(state_dict)} keys."
        )
    return convert(own)
