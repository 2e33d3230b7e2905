"""From a configuration of the plans to the arguments of `create_network`.

The plans describe one of nnU-Net's own networks (PlainConvUNet, ResidualEncoderUNet). Ours take its sizes:
features, strides, kernels, blocks per stage. Its operators they do not take; a plan that asks for others than
nnU-Net's defaults is refused, since the request would be dropped without a word.
"""

from collections.abc import Mapping
from typing import Any

from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import row_of

NEEDED = ("features_per_stage", "strides", "kernel_sizes", "n_conv_per_stage_decoder")
ENCODER_DEPTHS = ("n_conv_per_stage", "n_blocks_per_stage")  # PlainConvUNet, ResidualEncoderUNet
DEFAULT_OPERATORS: Mapping[str, tuple[Any, ...]] = {
    "conv_op": ("Conv2d", "Conv3d"),
    "conv_bias": (True,),
    "norm_op": ("InstanceNorm2d", "InstanceNorm3d"),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True}, None),
    "nonlin": ("LeakyReLU",),
    "nonlin_kwargs": ({"inplace": True}, {"inplace": False}, {}, None),
}
OFF = (None, False, 0)  # what any other key may hold


def network_kwargs(configuration_manager: Any) -> dict[str, Any]:
    """Keyword arguments of `create_network` for one configuration (nnU-Net's ConfigurationManager).

    Lists become tuples, so nothing that a network does with them can reach the plans.
    """
    architecture = configuration_manager.network_arch_init_kwargs
    _require_sizes(architecture)
    _refuse_other_operators(architecture)
    depths = next(key for key in ENCODER_DEPTHS if key in architecture)
    sizes = {key: _frozen(architecture[key]) for key in (*NEEDED, depths)}
    _require_one_per_stage(sizes)
    return {**sizes, "patch_size": _frozen(configuration_manager.patch_size)}


def network_sizes(network_name: str, configuration_manager: Any) -> dict[str, Any]:
    """`network_kwargs`, or the patch alone for networks whose topology and features are their own."""
    if isinstance(row_of(network_name), FixedConfig):
        return {"patch_size": _frozen(configuration_manager.patch_size)}
    return network_kwargs(configuration_manager)


def _frozen(value: Any) -> Any:
    """Nested lists -> nested tuples of ints; an int (the same for all stages) stays an int."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return int(value)


def _require_sizes(architecture: Mapping[str, Any]) -> None:
    missing = [key for key in NEEDED if key not in architecture]
    if not any(key in architecture for key in ENCODER_DEPTHS):
        missing.append(" or ".join(ENCODER_DEPTHS))
    if missing:
        raise ValueError(
            f"The plan's architecture has no {', '.join(missing)} (it has {', '.join(architecture)}). "
            "Networks of this package take their sizes from a U-Net plan: plan with nnU-Net's default "
            "planner or one of its ResEnc planners, or add the missing keys to architecture.arch_kwargs "
            "in the plans file."
        )


def _refuse_other_operators(architecture: Mapping[str, Any]) -> None:
    """Every key must be a size that we read, an nnU-Net default, or off."""
    for key, value in architecture.items():
        if key in (*NEEDED, *ENCODER_DEPTHS, "n_stages"):
            continue
        expected = DEFAULT_OPERATORS.get(key, OFF)
        named = value.rsplit(".", 1)[-1] if isinstance(value, str) else value  # classes by dotted path
        if named not in expected:
            raise ValueError(
                f"The plan asks for {key} = {value!r}, which the networks of this package would ignore "
                f"(expected {expected[0]!r}, or no such key). "
                "Change it in the plans file, or train this plan with nnU-Net's own trainer."
            )


def _require_one_per_stage(sizes: Mapping[str, Any]) -> None:
    n_stages = len(sizes["strides"])
    for key, value in sizes.items():
        expected = n_stages - 1 if key == "n_conv_per_stage_decoder" else n_stages
        if isinstance(value, tuple) and len(value) != expected:
            raise ValueError(
                f"The plan's {key} has {len(value)} entries, but its strides make {n_stages} stages: "
                f"expected {expected}. Correct the plans file, or plan the dataset anew."
            )
