"""Settings of plans on which preprocessed data depend: configurations that share them can share the data."""

from collections.abc import Mapping
from typing import Any

OF_PLANS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
OF_CONFIGURATION = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)


def get_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with all that it inherits. ValueError if the plans lack it."""
    configurations = plans.get("configurations", {})
    if name not in configurations:
        known = ", ".join(configurations) or "none"
        raise ValueError(f"The configuration {name} does not exist in the plans; they have {known}.")
    own = configurations[name]
    parent = own.get("inherits_from")
    return {**(get_configuration(plans, parent) if parent else {}), **own}


def select_preprocessing(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return the settings of preprocessing by name. ValueError if the plans lack the configuration."""
    own = get_configuration(plans, configuration)
    return {key: plans.get(key) for key in OF_PLANS} | {key: own.get(key) for key in OF_CONFIGURATION}
