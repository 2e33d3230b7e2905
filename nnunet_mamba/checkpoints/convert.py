"""State dicts of the papers' own code, renamed to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nnunet_mamba.checkpoints.meta_sources import convert_taming_mambas, convert_umamba
from nnunet_mamba.checkpoints.unetr_sources import convert_segmamba
from nnunet_mamba.checkpoints.vmamba import convert_vmamba
from nnunet_mamba.checkpoints.vss_sources import convert_mamba_unet, convert_swin_umamba, convert_vm_unet
from nnunet_mamba.io.messages import unknown
from nnunet_mamba.networks.finite import check_finite
from nnunet_mamba.networks.unet import is_alias, is_counter

Converter = Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]

# source -> a pattern that some key of its code's networks begins with and those of no other, the converter
CONVERTERS: dict[str, tuple[str, Converter]] = {
    "umamba": (r"encoder\.stages\.0\.0\.conv3\.weight", convert_umamba),
    "vm_unet": (r"(vmunet\.)?final_up\.", convert_vm_unet),
    "mamba_unet": (r"(mamba_unet\.)?concat_back_dim\.", convert_mamba_unet),
    "swin_umamba": (r"vssm_encoder\.", convert_swin_umamba),
    "vmamba": (r"(layers\.0\.blocks\.0|patch_embed)\.", convert_vmamba),
    "segmamba": (r"vit\.gscs\.0\.proj\.weight", convert_segmamba),
    "taming_mambas": (r"encoder\.mamba_layers\.0\..*norm1\.weight", convert_taming_mambas),
}


def convert_state_dict(state_dict: Mapping[str, Tensor], source: str, **config: Any) -> dict[str, Tensor]:
    """Weights of a paper's own code under the names of our network, which then loads them strictly.

    Args:
        state_dict: as its network's `state_dict()` gave it, with or without the prefixes that
            DistributedDataParallel and torch.compile leave, the second names that nnU-Net's networks give
            to one weight, and what a counter of operations (thop) adds.
        source: whose code: "umamba" (Bot and Enc, code since March 2024), "taming_mambas" (the networks that
            its code calls SegMamba, PanSegMamba and MultiSegMamba: our mamba_uni, mamba_bi, mamba_multi),
            "vm_unet", "mamba_unet", "swin_umamba" (both variants), "segmamba" (of ge-xing), "vmamba"
            (ImageNet weights, which fill a part of the network that `name` says).
        config: arguments of `create_network`, for sources whose keys do not tell the sizes.

    Raises ValueError if the source is unknown, the keys are not that source's, or weights are not finite.
    """
    if source not in CONVERTERS:
        raise ValueError(unknown("source", source, CONVERTERS))
    mark, convert = CONVERTERS[source]
    prefix = re.compile(r"^(?:_orig_mod\.|module\.)+")
    plain = {prefix.sub("", key): value for key, value in state_dict.items()}
    own = {key: value for key, value in plain.items() if not (is_alias(key) or is_counter(key))}
    if not any(re.match(mark, key) for key in own):
        raise ValueError(
            f"This is no state dict of {source}: none of its {len(state_dict)} keys is like {mark}."
        )
    check_finite(own, f"this state dict of {source}", "They cannot be used; take another checkpoint.")
    return convert(own, config)
