"""State dicts of the papers' own code: found in a file's content, and renamed to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nnunet_mamba.checkpoints.fixed_key_maps import convert_lightm_unet, convert_nnmamba, convert_segmamba_v2
from nnunet_mamba.checkpoints.key_maps import (
    convert_mamba_unet,
    convert_segmamba,
    convert_swin_umamba,
    convert_vm_unet,
)
from nnunet_mamba.checkpoints.meta_key_maps import (
    convert_lkm_unet,
    convert_taming_mambas,
    convert_umamba,
    convert_umamba2,
    convert_xlstm_unet,
)
from nnunet_mamba.checkpoints.vmamba import convert_vmamba
from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.networks.finite import check_finite
from nnunet_mamba.networks.unet import is_alias, is_counter

Converter = Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]

# U-Mamba2's repository has its residual encoder with Mamba-1, too: U-Mamba's layer, other names of stages
_UMAMBA_LAYER = r"(mamba_layer|encoder\.mamba_layers\.\d+)\.mamba\.dt_proj\.weight"
# source -> patterns at the start of some keys of its networks, which no other's keys match all; the converter
CONVERTERS: dict[str, tuple[tuple[str, ...], Converter]] = {
    "umamba": ((_UMAMBA_LAYER, r"encoder\.stages\.0\.0\."), convert_umamba),
    "umamba2": ((r"mamba_layer\.mamba\.dt_", r"encoder\.stages\.0\.blocks\."), convert_umamba2),
    "xlstm_unet": ((r"(xlstm|encoder\.xlstm_layers\.\d+)\.",), convert_xlstm_unet),
    "lkm_unet": ((r"encoder\.w_mamba_layers\.0\.",), convert_lkm_unet),
    "vm_unet": ((r"(vmunet\.)?final_up\.",), convert_vm_unet),
    "mamba_unet": ((r"(mamba_unet\.)?concat_back_dim\.",), convert_mamba_unet),
    "swin_umamba": ((r"vssm_encoder\.",), convert_swin_umamba),
    "vmamba": ((r"(layers\.0\.blocks\.0|patch_embed)\.",), convert_vmamba),
    "segmamba": ((r"vit\.gscs\.0\.proj\.weight",), convert_segmamba),
    "segmamba_v2": ((r"vit\.gscs\.0\.0\.deep_path",), convert_segmamba_v2),
    "nnmamba": ((r"layer1\.1\.mamba_layer\.nin2\.",), convert_nnmamba),
    "lightm_unet": ((r"convInit\.0\.conv\.",), convert_lightm_unet),
    "taming_mambas": ((r"encoder\.mamba_layers\.0\..*norm1\.weight",), convert_taming_mambas),
}


def convert_state_dict(state_dict: Mapping[str, Tensor], source: str, **config: Any) -> dict[str, Tensor]:
    """Rename the weights of a paper's own code to those of our network, which can then load them strictly.

    Args:
        state_dict: from `state_dict()` of its network, with or without the prefixes of
            DistributedDataParallel and torch.compile, the second names that nnU-Net's networks give to one
            weight, and the buffers of a counter of operations (thop).
        source: "umamba" (Bot and Enc, code since March 2024), "umamba2" (with Mamba-2, or with Mamba: our
            umamba2 with mixer="mamba"), "xlstm_unet" (Bot and Enc), "taming_mambas" (the networks that its
            code calls SegMamba, PanSegMamba and MultiSegMamba: our mamba_uni, mamba_bi, mamba_multi),
            "lkm_unet", "lightm_unet" (code since 29 March 2024), "vm_unet", "mamba_unet", "swin_umamba" (both
            variants), "segmamba" and "segmamba_v2" (of ge-xing), "nnmamba" (the network of four walks), or
            "vmamba" (ImageNet weights for a part of the network that `name` says).
        config: arguments of `create_network`, for sources whose keys do not determine the sizes.

    Raises ValueError if the source is unknown, the keys are not that source's, or weights are not finite.
    """
    if source not in CONVERTERS:
        raise ValueError(format_unknown_name("source", source, CONVERTERS))
    patterns, convert = CONVERTERS[source]
    prefix = re.compile(r"^(?:_orig_mod\.|module\.)+")
    plain = {prefix.sub("", key): value for key, value in state_dict.items()}
    own = {key: value for key, value in plain.items() if not (is_alias(key) or is_counter(key))}
    for pattern in patterns:
        if not any(re.match(pattern, key) for key in own):
            raise ValueError(
                f"This is not a state dict of {source}: none of its {len(state_dict)} keys is like {pattern}."
            )
    check_finite(own, f"this state dict of {source}", "They cannot be used; take another checkpoint.")
    return convert(own, config)


# names that training scripts give to a state dict within a file; the first one present is taken
WRAPPERS = (
    *("model", "model_state_dict", "model_state", "net", "network", "module", "weights"),
    *("model_ema", "state_dict", "network_weights", "ema", "ema_state_dict", "state_dict_ema"),
)


class Weights(NamedTuple):
    """State dict of a file, the entry that held it, and the other entries that hold weights."""

    tensors: Mapping[str, Tensor]
    entry: str | None
    others: tuple[str, ...]

    def __str__(self) -> str:
        """Return "entry model (model_ema left aside)", for logs."""
        aside = f" ({', '.join(self.others)} left aside)" if self.others else ""
        return f"entry {self.entry}{aside}" if self.entry else "the whole file"


def select_weights(content: Any, path: str | Path, entry: str = "auto") -> Weights:
    """Return the weights in the content of a file, without the buffers of a counter of operations.

    Args:
        path: of the file, for messages.
        entry: key of the state dict; "auto": the first of WRAPPERS that is there, else the content itself.

    Raises ValueError if there are none, or if some are not finite.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict of weights.")
    entries = [key for key, value in content.items() if _is_state_dict(value)]
    if entry != "auto" and entry not in entries:
        raise ValueError(f"{path} has no {entry!r}; it has {', '.join(entries) or 'weights alone'}.")
    chosen = next((name for name in WRAPPERS if name in entries), None) if entry == "auto" else entry
    tensors = _without_counters(content if chosen is None else content[chosen])
    unexpected = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if unexpected or not tensors:
        others = ", ".join(map(str, unexpected[:3])) or "nothing"
        choice = f" Take one of {', '.join(entries)} by import-checkpoint's --weights." if entries else ""
        raise ValueError(f"{path} holds no state dict: expected tensors, found {others}.{choice}")
    found = Weights(tensors, chosen, tuple(name for name in entries if name != chosen))
    check_finite(tensors, f"{path}, {found}", "Such weights cannot be used; take another checkpoint.")
    return found


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    weights = _without_counters(value).values()
    return bool(weights) and all(isinstance(one, Tensor) for one in weights)


def _without_counters(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the content without counters of operations, and without numbers and texts beside weights."""
    return {
        key: value
        for key, value in content.items()
        if not (is_counter(str(key)) or value is None or isinstance(value, int | float | str))
    }
