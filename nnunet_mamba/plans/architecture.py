"""From a configuration of the plans to the arguments of `create_network`, and back.

The plans describe one of nnU-Net's own networks (PlainConvUNet, ResidualEncoderUNet), or one of ours by its
dotted path. Ours take the sizes of either: features, strides, kernels, blocks per stage. Operators they do
not take; a plan that asks for others than nnU-Net's defaults is refused, since the request would be dropped
without a word.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from nnunet_mamba.networks.config import FixedConfig, MetaConfig
from nnunet_mamba.networks.family import get_config, list_networks

DOTTED = "nnunet_mamba.networks."  # where nnU-Net finds our networks

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
    require_sizes(architecture)
    _refuse_other_patch(architecture, configuration_manager.patch_size)
    _refuse_other_operators(architecture)
    depths = next(key for key in ENCODER_DEPTHS if key in architecture)
    sizes = {key: _frozen(architecture[key]) for key in (*NEEDED, depths)}
    _require_one_per_stage(sizes)
    return {**sizes, "patch_size": _frozen(configuration_manager.patch_size)}


def network_sizes(network_name: str, configuration_manager: Any) -> dict[str, Any]:
    """`network_kwargs`, or the patch alone for networks whose topology and features are their own."""
    if isinstance(get_config(network_name), FixedConfig):
        return {"patch_size": _frozen(configuration_manager.patch_size)}
    return network_kwargs(configuration_manager)


def named_network(architecture: Mapping[str, Any]) -> str | None:
    """The name of the network of ours that an architecture block of plans has; None for other networks."""
    path = str(architecture["network_class_name"])
    name = path.removeprefix(DOTTED)
    return name if path != name and name in list_networks() else None


def n_outputs(name: str, n_stages: int) -> int:
    """How many resolutions a network of ours puts out with deep supervision, of a plan of `n_stages`."""
    config = get_config(name)
    if isinstance(config, FixedConfig):
        return len(config.output_strides)
    assert isinstance(config, MetaConfig)
    return min(config.n_supervised or n_stages - 1, n_stages - 1)


def with_network(architecture: Mapping[str, Any], name: str, patch: Sequence[int]) -> dict[str, Any]:
    """An architecture block, of the sizes of another, that names a network of ours by its dotted path.

    nnU-Net builds it with these keywords alone, and reads the supervised resolutions in `strides`: so the
    patch is among them, for weights that depend on it, and strides are there even where a network has its
    own.
    """
    config = get_config(name)
    if isinstance(config, FixedConfig):
        kwargs: dict[str, Any] = {"strides": [[stride] * config.ndim for stride in config.plan_strides()]}
    else:
        sizes = architecture["arch_kwargs"]
        require_sizes(sizes)
        depths = next(key for key in ENCODER_DEPTHS if key in sizes)
        kwargs = {key: deepcopy(sizes[key]) for key in (*NEEDED, depths)}
        kwargs["patch_size"] = [int(size) for size in patch]
    return {"network_class_name": DOTTED + name, "arch_kwargs": kwargs, "_kw_requires_import": []}


def resized(
    architecture: Mapping[str, Any],
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features: Sequence[int],
) -> dict[str, Any]:
    """A copy of an architecture block of plans, of another topology.

    Counts of convolutions or blocks keep their first entries; for stages more than before the last repeats.
    """
    before, n_stages = architecture["arch_kwargs"], len(strides)
    changes: dict[str, Any] = {
        "strides": [list(stride) for stride in strides],
        "kernel_sizes": [list(kernel) for kernel in kernel_sizes],
        "features_per_stage": list(features),
    }
    for key in (*ENCODER_DEPTHS, "n_conv_per_stage_decoder"):
        counts = before.get(key)
        if isinstance(counts, Sequence):
            n = n_stages - (key == "n_conv_per_stage_decoder")
            changes[key] = [*counts, *[counts[-1]] * n][:n]
    optional = {"n_stages": n_stages, "patch_size": list(patch)}
    changes |= {key: value for key, value in optional.items() if key in before}
    return deepcopy({**architecture, "arch_kwargs": {**before, **changes}})


def _frozen(value: Any) -> Any:
    """Nested lists -> nested tuples of ints; an int (the same for all stages) stays an int."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return int(value)


def require_sizes(architecture: Mapping[str, Any]) -> None:
    """ValueError if the arch_kwargs of a plan lack a size that networks of varying topology need."""
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


def _refuse_other_patch(architecture: Mapping[str, Any], patch: Sequence[int]) -> None:
    own = architecture.get("patch_size", patch)
    if list(own) != list(patch):
        raise ValueError(
            f"The plan's patch_size is {list(patch)}, but in its architecture.arch_kwargs it is {list(own)}. "
            "They must be equal, for weights may depend on it: correct the plans file."
        )


def _refuse_other_operators(architecture: Mapping[str, Any]) -> None:
    """Every key must be a size that we read, an nnU-Net default, or off."""
    for key, value in architecture.items():
        if key in (*NEEDED, *ENCODER_DEPTHS, "n_stages", "patch_size"):
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
