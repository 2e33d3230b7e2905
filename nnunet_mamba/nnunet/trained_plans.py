"""Plans of a trained network: its configuration, and whether they are those of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import join_names

# what is seen by the network, per configuration
SEEN = ("spacing", "normalization_schemes", "use_mask_for_norm", "architecture")
SEEN_BY_ALL = ("transpose_forward", "foreground_intensity_properties_per_channel")


def check_trained_plans(plans_file: Path, checkpoint: Path, init_args: Mapping[str, Any]) -> None:
    """Raise ValueError if plans would show the network other images than it was trained with.

    Args:
        plans_file: plans to predict with.
        checkpoint: file of the weights, for the message.
        init_args: entry of that file with the plans of the training; files of other programs may lack them,
            and pass.
    """
    trained = init_args.get("plans")
    if not isinstance(trained, dict):
        return
    given = json.loads(plans_file.read_text(encoding="utf-8"))
    name = init_args["configuration"]
    if name not in given["configurations"]:
        raise ValueError(f"{plans_file} lacks {name}, the configuration that {checkpoint} was trained with.")
    pairs = {key: (trained.get(key), given.get(key)) for key in SEEN_BY_ALL}
    then, now = resolve_configuration(trained, name), resolve_configuration(given, name)
    # plans in nnU-Net's old format say "architecture" in other words
    pairs |= {f"{name}: {key}": (then[key], now[key]) for key in SEEN if key in then and key in now}
    if changed := [key for key, (one, other) in pairs.items() if _plain(one) != _plain(other)]:
        raise ValueError(
            f"{plans_file} is not what {checkpoint} was trained with: {join_names(changed)} differ. "
            "Put the plans of the training back; the checkpoint holds them (init_args, plans)."
        )


def resolve_configuration(plans: Mapping[str, Any], name: str, heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a configuration with what it inherits. ValueError if it inherits from itself or from nothing."""
    if name in heirs or name not in plans["configurations"]:
        line = " from ".join((*heirs, str(name)))
        raise ValueError(f"The plans cannot be resolved: {line} is inherited, a circle or not there.")
    own = plans["configurations"][name]
    parent = own.get("inherits_from")
    return {**(resolve_configuration(plans, parent, (*heirs, name)) if parent else {}), **own}


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
