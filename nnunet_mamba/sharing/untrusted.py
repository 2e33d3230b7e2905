"""Plans and dataset.json that may come from anyone, read and checked before nnU-Net acts on them.

nnU-Net imports and calls what plans name as classes of a network and its operators. A file from others could
name any function there, so models that are shared may name networks and operators of torch, of nnU-Net's
library of networks and of this package only. Readers, preprocessors and the like it looks up by name among
all that modules of its own folders have, what they import included: they may be nnU-Net's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.catalogue import list_network_names
from nnunet_mamba.nnunet.dataset_json import get_channels, sort_channels
from nnunet_mamba.nnunet.trained_plans import (
    check_plans_keys,
    describe_remedy,
    read_trained_dataset,
    resolve_configuration,
)

ALLOWED = re.compile(
    r"torch\.nn\.(modules\.[a-z]+\.)?[A-Z]\w*"
    r"|dynamic_network_architectures\.(architectures|building_blocks)\.[a-z_0-9]+\.[A-Z]\w*"
    rf"|nnunet_mamba\.(create_network|networks\.({'|'.join(list_network_names())}))",
    re.ASCII,
)
READERS = "SimpleITKIO SimpleITKIOWithReorient NibabelIO NibabelIOWithReorient NaturalImage2DIO Tiff3DIO"
NORMALIZATIONS = "ZScore CT No RescaleTo01 RGBTo01"
RESAMPLING = "resample_data_or_seg_to_shape resample_torch_simple resample_torch_fornnunet no_resampling_hack"
LOOKED_UP = {  # keys of plans and configurations, and the names of nnU-Net's own that they may have
    "image_reader_writer": READERS.split(),
    "label_manager": ["LabelManager"],
    "preprocessor_name": ["DefaultPreprocessor"],
    "normalization_schemes": [f"{name}Normalization" for name in NORMALIZATIONS.split()],
    **{f"resampling_fn_{what}": RESAMPLING.split() for what in ("data", "seg", "probabilities")},
}
ENDING = re.compile(r"[\w.-]+")  # of files: none that leads to another folder


def read_plans(file: Path, configuration: str) -> dict[str, Any]:
    """Return plans. ValueError for files that are none, for plans without the configuration or without what
    nnU-Net needs to predict with it, and for those that name code of other packages."""
    try:
        plans = json.loads(file.read_text(encoding="utf-8"))
        configurations = plans["configurations"]
        named = {name: _list_named(one.get("architecture")) for name, one in configurations.items()}
        resolve_configuration(plans, configuration)
    except KeyError as error:
        raise ValueError(f"{file} lacks {error}. {describe_remedy(file)}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as plans of nnU-Net ({error!r:.300}).") from error
    for place in (plans, *configurations.values()):
        _check_looked_up(place, file)
    for name, paths in named.items():
        for path in paths:
            if not (isinstance(path, str) and ALLOWED.fullmatch(path)):
                raise ValueError(
                    f"{file}: {name} names {path!r:.100}. Models that are shared may name classes of "
                    "torch.nn, dynamic_network_architectures and nnunet_mamba.networks only, since nnU-Net "
                    "imports and calls what is named. Among people who trust each other nnU-Net's zip does."
                )
    check_plans_keys(plans, configuration, file)
    return plans


def _check_looked_up(place: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError if plans, or a configuration, name what is not nnU-Net's own."""
    for key in LOOKED_UP.keys() & place.keys():
        names = place[key] if isinstance(place[key], list) else [place[key]]
        if other := [name for name in names if name not in LOOKED_UP[key]]:
            raise ValueError(
                f"{file}: {key} is {other[0]!r:.100}. In models that are shared it may be "
                f"{', '.join(LOOKED_UP[key])}, for nnU-Net looks it up among all that its modules hold. "
                "Among people who trust each other nnU-Net's zip does."
            )


def _list_named(architecture: Any) -> list[Any]:
    """Return what nnU-Net imports for an architecture; nothing for plans in the old format, which name one
    of two networks."""
    if architecture is None:
        return []
    arguments = architecture["arch_kwargs"]
    operators = [arguments[key] for key in architecture["_kw_requires_import"]]
    return [architecture["network_class_name"], *(path for path in operators if path is not None)]


def read_description(file: Path) -> dict[str, Any]:
    """Return a dataset.json. ValueError for files that are none, or whose labels, channels or ending of files
    are missing, or none that nnU-Net understands."""
    try:
        description = read_trained_dataset(file)
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply for a dataset.json.") from error
    sort_channels(get_channels(description), file)
    ending = description["file_ending"]
    if not (isinstance(ending, str) and ENDING.fullmatch(ending)):
        raise ValueError(f"{file} has the file_ending {ending!r:.100}; expected one as '.nii.gz'.")
    return description
