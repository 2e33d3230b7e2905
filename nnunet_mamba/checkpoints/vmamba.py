"""VMamba's ImageNet weights (its first version, tiny and small) as the beginning of our VSS U-Nets.

Which weights go where is as the U-Nets' own code has it, except that nothing is dropped without a word.

[1] Liu et al., VMamba, arXiv:2401.10166.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.checkpoints.renaming import Rule, rename
from nnunet_mamba.checkpoints.vss_sources import ENCODER
from nnunet_mamba.networks.finite import check_finite

D_STATE = 16  # of VMamba's first version; the later ones have 1

_NEWER_NAMES: list[Rule] = [  # the same weights, as VMamba's code of February 2024 renamed them
    (r"^patch_embed\.0\.", "patch_embed.proj."),
    (r"^patch_embed\.2\.", "patch_embed.norm."),
    (r"\.blocks\.(\d+)\.norm\.", r".blocks.\1.ln_1."),
    (r"\.blocks\.(\d+)\.op\.", r".blocks.\1.self_attention."),
    (r"\.downsample\.1\.", ".downsample.norm."),
    (r"\.downsample\.2\.", ".downsample.reduction."),
    (r"^classifier\.", ""),
]
_STAGES = [rule for rule in ENCODER if "layers" in rule[0]]
_DECODERS: dict[str, list[Rule]] = {  # the encoder's stages serve the decoder a second time, mirrored
    "vm_unet": [(r"^layers\.(\d+)\.blocks\.", lambda key: f"decoder.layers.{3 - int(key[1])}.")],
    "mamba_unet": [
        (r"^layers\.([0-2])\.blocks\.", lambda key: f"decoder.layers.{2 - int(key[1])}."),
        (r"^norm\.", "decoder.norm."),
    ],
    "swin_umamba": [],
    "swin_umamba_d": [],
}
NETWORKS = tuple(_DECODERS)


@dataclass(frozen=True)
class LoadReport:
    """What came of loading: keys of the network, and of the file."""

    network: str
    loaded: tuple[str, ...]
    untouched: tuple[str, ...]  # of the network, left as initialised
    unused: tuple[str, ...]  # of the file

    def __str__(self) -> str:
        n_loaded, encoder = len(self.loaded), sum(key.startswith("encoder.") for key in self.loaded)
        return (
            f"VMamba's ImageNet weights fill {n_loaded} of {n_loaded + len(self.untouched)} tensors of "
            f"{self.network} ({encoder} in the encoder, {n_loaded - encoder} in the decoder). "
            f"Left as initialised, as expected: {_parts(self.untouched)}. "
            f"Not used of the file: {_parts(self.unused)}."
        )


def load_vmamba(network: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> LoadReport:
    """Fill `network`, which `create_network(name, ...)` built, from VMamba's state dict.

    Raises ValueError for files of other versions of VMamba, other networks than NETWORKS, widths that do not
    fit, and weights that are not finite; the network is then as it was.
    """
    targets = network.state_dict()
    weights, unused = select_vmamba(state_dict, targets, name)
    check_finite(weights, "this state dict of VMamba", "They cannot be used; take another file.")
    network.load_state_dict(weights, strict=False)
    untouched = tuple(key for key in targets if key not in weights)
    return LoadReport(name, tuple(weights), untouched, unused)


def convert_vmamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The part of a network's state dict that the file fills; config: `name` and other arguments of
    create_network."""
    from nnunet_mamba.networks import create_network

    if "name" not in config:
        raise ValueError(f"Weights of VMamba go into one of {', '.join(NETWORKS)}; say which by name=.")
    with torch.device("meta"):
        network = create_network(**{"input_channels": 3, "num_classes": 2, **config})
    return select_vmamba(state_dict, network.state_dict(), config["name"])[0]


def select_vmamba(
    state_dict: Mapping[str, Tensor], targets: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights by our names, and the keys of the file that have no place."""
    if name not in NETWORKS:
        raise ValueError(f"VMamba's weights are for {', '.join(NETWORKS)}; {name} has no place for them.")
    theirs = rename(state_dict, _NEWER_NAMES)
    _refuse_other_versions(theirs)
    rules = _encoder_rules(name, targets)
    weights, unused = {}, []
    for key, value in theirs.items():
        places = {next(iter(rename({key: value}, some))) for some in (rules, _DECODERS[name])}
        fitting = [place for place in places if place in targets and place != key]
        if not fitting:
            unused.append(key)
        for place in fitting:
            if targets[place].shape != value.shape:
                raise ValueError(
                    f"{key} of the file has shape {tuple(value.shape)}, and {place} of {name} has "
                    f"{tuple(targets[place].shape)}: use VMamba's weights of the same width, and a network "
                    f"with its paper's features."
                )
            weights[place] = value
    return weights, tuple(unused)


def _encoder_rules(name: str, targets: Mapping[str, Tensor]) -> list[Rule]:
    """Where the encoder takes its weights from. Patch embeddings of other channels than VMamba's three are
    left as they are; Swin-UMamba, whose embedding stands behind a stem, takes the bias of its norm alone, as
    its code does."""
    if name == "swin_umamba":
        inner = [(pattern, str(place).replace("encoder.", "encoder.vss.")) for pattern, place in _STAGES]
        return [*inner, (r"^patch_embed\.norm\.bias$", "encoder.vss.patch_embed.norm.bias")]
    if targets["encoder.patch_embed.proj.weight"].shape[1] == 3:
        return ENCODER
    return _STAGES


def _refuse_other_versions(state_dict: Mapping[str, Tensor]) -> None:
    states = {value.shape[-1] for key, value in state_dict.items() if key.endswith(".A_logs")}
    if not states:
        raise ValueError("This is no state dict of VMamba: it has no A_logs.")
    if states != {D_STATE} or any(".mlp." in key for key in state_dict):
        raise ValueError(
            f"These are weights of a later VMamba (states per channel: {sorted(states)}, expected {D_STATE}; "
            f"blocks with or without an MLP), whose blocks differ. Use its first version's: "
            f"vssmtiny_dp01_ckpt_epoch_292.pth or vssmsmall_dp03_ckpt_epoch_238.pth."
        )


def _parts(keys: tuple[str, ...]) -> str:
    """Modules rather than tensors: 'decoder.expands (9), ...'."""
    counts: dict[str, int] = {}
    for key in keys:
        part = re.sub(r"\.\d+\..*$|\.(weight|bias)$", "", key)
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({n})" for part, n in counts.items()) or "nothing"
