"""VMamba's ImageNet weights (its first version, tiny and small) as initial values of our VSS U-Nets.

They go where the U-Nets' own code puts them; weights that are not used are reported.

[1] Liu et al., VMamba, arXiv:2401.10166.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.checkpoints.key_maps import ENCODER, Rule, rename_keys
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
_DECODERS: dict[str, list[Rule]] = {  # the encoder's stages initialise the decoder too, mirrored
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
    """Result of loading: keys of the network, and of the file."""

    network: str
    loaded: tuple[str, ...]
    untouched: tuple[str, ...]  # of the network, with their own initialisation
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
    """Load VMamba's state dict into `network`, which `create_network(name, ...)` built.

    Raises ValueError, and leaves the network unchanged, for other versions of VMamba, other networks than
    NETWORKS, other widths, and weights that are not finite.
    """
    targets = network.state_dict()
    weights, unused = select_vmamba(state_dict, targets, name)
    check_finite(weights, "this state dict of VMamba", "They cannot be used; take another file.")
    network.load_state_dict(weights, strict=False)
    untouched = tuple(key for key in targets if key not in weights)
    return LoadReport(name, tuple(weights), untouched, unused)


def convert_vmamba(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the part of a network's state dict that the file has.

    Args:
        config: `name` and other arguments of create_network.
    """
    from nnunet_mamba.networks import create_network

    if "name" not in config:
        raise ValueError(f"Weights of VMamba go into one of {', '.join(NETWORKS)}; say which by name=.")
    with torch.device("meta"):
        network = create_network(**{"input_channels": 3, "num_classes": 2, **config})
    return select_vmamba(state_dict, network.state_dict(), config["name"])[0]


def select_vmamba(
    state_dict: Mapping[str, Tensor], targets: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights by our names, and the keys of the file that are not used."""
    if name not in NETWORKS:
        raise ValueError(f"VMamba's weights are for {', '.join(NETWORKS)}; {name} has no place for them.")
    theirs = rename_keys(state_dict, _NEWER_NAMES)
    _check_version(theirs)
    encoder = _encoder_rules(name, targets)
    weights, unused = {}, []
    for key, value in theirs.items():
        names = {next(iter(rename_keys({key: value}, rules))) for rules in (encoder, _DECODERS[name])}
        ours = [renamed for renamed in names if renamed in targets and renamed != key]
        if not ours:
            unused.append(key)
        for renamed in ours:
            if targets[renamed].shape != value.shape:
                raise ValueError(
                    f"{key} of the file has shape {tuple(value.shape)}, and {renamed} of {name} has "
                    f"{tuple(targets[renamed].shape)}: use VMamba's weights of the same width, and a network "
                    f"with its paper's features."
                )
            weights[renamed] = value
    return weights, tuple(unused)


def _encoder_rules(name: str, targets: Mapping[str, Tensor]) -> list[Rule]:
    """Return the rules for the encoder. A patch embedding whose input is not VMamba's three channels keeps
    its own initialisation; of Swin-UMamba's, which follows a stem, only the bias of its norm is loaded, as in
    its code."""
    if name == "swin_umamba":
        inner = [(pattern, str(ours).replace("encoder.", "encoder.vss.")) for pattern, ours in _STAGES]
        return [*inner, (r"^patch_embed\.norm\.bias$", "encoder.vss.patch_embed.norm.bias")]
    if targets["encoder.patch_embed.proj.weight"].shape[1] == 3:
        return ENCODER
    return _STAGES


def _check_version(state_dict: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the weights are of VMamba's first version."""
    states = {value.shape[-1] for key, value in state_dict.items() if key.endswith(".A_logs")}
    if not states:
        raise ValueError("This is not a state dict of VMamba: it has no A_logs.")
    if states != {D_STATE} or any(".mlp." in key for key in state_dict):
        raise ValueError(
            f"These are weights of a later VMamba (states per channel: {sorted(states)}, expected {D_STATE}; "
            f"blocks with or without an MLP), whose blocks differ. Use its first version's: "
            f"vssmtiny_dp01_ckpt_epoch_292.pth or vssmsmall_dp03_ckpt_epoch_238.pth."
        )


def _parts(keys: tuple[str, ...]) -> str:
    """Return keys grouped by module, as "decoder.expands (9), ..."."""
    counts: dict[str, int] = {}
    for key in keys:
        part = re.sub(r"\.\d+\..*$|\.(weight|bias)$", "", key)
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({n})" for part, n in counts.items()) or "nothing"
