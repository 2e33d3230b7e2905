"""Plans and dataset.json of a trained network: whether a prediction can be made with them, and whether they
are those of its training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import join_names
from nnunet_mamba.nnunet.dataset_json import check_labels, get_channels, read_dataset_json

# what is seen by the network, per configuration
SEEN = ("spacing", "normalization_schemes", "use_mask_for_norm", "architecture")
SEEN_BY_ALL = ("transpose_forward", "foreground_intensity_properties_per_channel")
# what a prediction reads: of the plans, of the configuration, and of a channel in Hounsfield units
READ_OF_ALL = ("configurations", "image_reader_writer", "transpose_forward", "transpose_backward")
READ = (
    *("preprocessor_name", "patch_size", "spacing", "normalization_schemes", "use_mask_for_norm"),
    *("resampling_fn_data", "resampling_fn_data_kwargs"),
    *("resampling_fn_probabilities", "resampling_fn_probabilities_kwargs"),
)
READ_OF_STAGE = ("resampling_fn_seg", "resampling_fn_seg_kwargs")  # a cascade's second
INTENSITIES = ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality")
READ_FOR_CT = ("mean", "std", "percentile_00_5", "percentile_99_5")


def read_trained_dataset(file: Path) -> dict[str, Any]:
    """Return a trained model's dataset.json. ValueError unless it has all that a prediction reads."""
    description = read_dataset_json(file)
    labels = description["labels"]
    check_labels(labels, file)
    needed = {"channel_names": get_channels(description), "labels: background": labels.get("background")}
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):  # regions
        needed["regions_class_order"] = description.get("regions_class_order")
    if lacking := [key for key, value in needed.items() if value is None]:
        raise ValueError(f"{file} lacks {join_names(lacking)}. {describe_remedy(file)}")
    return description


def check_readable_plans(file: Path, configuration: str) -> None:
    """Raise ValueError, with their names, for keys that a prediction by a configuration reads and that a
    plans file lacks, and for files that are no plans."""
    check_plans_keys(_read_plans(file), configuration, file)


def check_plans_keys(plans: Mapping[str, Any], configuration: str, file: Path) -> None:
    """Raise ValueError, with their names, for keys that a prediction by a configuration reads and that the
    plans of a file lack."""
    _check_keys(plans, READ_OF_ALL, "", file)
    if configuration not in plans["configurations"]:
        raise ValueError(f"{file} lacks the configuration {configuration}. {describe_remedy(file)}")
    own, path = resolve_configuration(plans, configuration), f"configurations.{configuration}."
    network = () if "UNet_class_name" in own else ("architecture",)  # the former in the old format
    stage = READ_OF_STAGE if own.get("previous_stage") else ()
    _check_keys(own, (*READ, *network, *stage), path, file)
    name = next((key for key in INTENSITIES if key in plans), INTENSITIES[0])
    _check_keys(plans, (name,), "", file)
    for channel, scheme in enumerate(own["normalization_schemes"]):
        _check_keys(plans[name], (str(channel),), f"{name}.", file)
        numbers = READ_FOR_CT if scheme == "CTNormalization" else ()
        _check_keys(plans[name][str(channel)], numbers, f"{name}.{channel}.", file)


def _read_plans(file: Path) -> dict[str, Any]:
    try:
        plans = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read ({error}). {describe_remedy(file)}") from error
    if not isinstance(plans, dict):
        raise ValueError(f"{file} holds no plans of nnU-Net. {describe_remedy(file)}")
    return plans


def _check_keys(place: Any, keys: Iterable[str], path: str, file: Path) -> None:
    if lacking := [path + key for key in keys if not isinstance(place, Mapping) or key not in place]:
        raise ValueError(f"{file} lacks {join_names(lacking)}. {describe_remedy(file)}")


def describe_remedy(file: Path) -> str:
    """Return what to do about plans or a dataset.json without which nothing can be predicted."""
    return f"nnU-Net cannot predict without it: take the {file.name} that the model was trained with."


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
