"""Networks of the plans: arguments of `create_network` from a configuration, and back.

The plans describe one of nnU-Net's own networks (PlainConvUNet, ResidualEncoderUNet), or one of ours by its
dotted path. Ours take the sizes of either: features, strides, kernels, blocks per stage. They do not take
operators: plans with others than nnU-Net's defaults are an error, for they would be ignored silently.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from nnunet_mamba.networks.config import FixedConfig, MetaConfig
from nnunet_mamba.networks.family import create_network, get_config, list_networks
from nnunet_mamba.networks.unet import UNet

DOTTED = "nnunet_mamba.networks."  # prefix of our networks' dotted paths

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
OFF = (None, False, 0)  # values that any other key may have


def network_kwargs(configuration_manager: Any) -> dict[str, Any]:
    """Return the arguments of `create_network` for one configuration (nnU-Net's ConfigurationManager).

    Lists become tuples, so that no network can change the plans.
    """
    architecture = configuration_manager.network_arch_init_kwargs
    check_sizes(architecture)
    _check_patch(architecture, configuration_manager.patch_size)
    _check_operators(architecture)
    depths = next(key for key in ENCODER_DEPTHS if key in architecture)
    sizes = {key: _to_tuples(architecture[key]) for key in (*NEEDED, depths)}
    _check_stage_counts(sizes)
    return {**sizes, "patch_size": _to_tuples(configuration_manager.patch_size)}


def network_sizes(network_name: str, configuration_manager: Any) -> dict[str, Any]:
    """Return `network_kwargs`, or the patch alone for networks of fixed topology."""
    if isinstance(get_config(network_name), FixedConfig):
        return {"patch_size": _to_tuples(configuration_manager.patch_size)}
    return network_kwargs(configuration_manager)


def get_build_arguments(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> tuple[Any, Any, int, int]:
    """Return the arguments of a trainer's `build_network_architecture`: nnU-Net's managers of the plans and
    of the configuration, and the channels of input and output."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(deepcopy(dict(plans)))
    settings = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, settings, dataset_json)
    return (
        manager,
        settings,
        int(channels),
        int(manager.get_label_manager(dataset_json).num_segmentation_heads),
    )


def count_channels_and_classes(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> tuple[int, int]:
    """Return the input and output channels of a configuration, as nnU-Net counts them."""
    return get_build_arguments(plans, configuration, dataset_json)[2:]


def build_network(
    name: str,
    configuration_manager: Any,
    input_channels: int,
    num_classes: int,
    *,
    deep_supervision: bool = False,
) -> UNet:
    """Build a network of ours on a configuration: with the keywords of its plan if that names the network,
    else in its sizes, as our trainers do."""
    architecture = configuration_manager.configuration["architecture"]
    is_named = get_network_name(architecture) == name
    sizes = architecture["arch_kwargs"] if is_named else network_sizes(name, configuration_manager)
    arguments = {**sizes, "deep_supervision": deep_supervision}
    return create_network(name, input_channels=input_channels, num_classes=num_classes, **arguments)


def get_network_name(architecture: Mapping[str, Any]) -> str | None:
    """Return the name of the network in an architecture block of plans if it is ours, else None."""
    path = str(architecture["network_class_name"])
    name = path.removeprefix(DOTTED)
    return name if path != name and name in list_networks() else None


def count_outputs(name: str, n_stages: int) -> int:
    """Return the number of outputs of a network of ours with deep supervision, for a plan of `n_stages`."""
    config = get_config(name)
    if isinstance(config, FixedConfig):
        return len(config.output_strides)
    assert isinstance(config, MetaConfig)
    return min(config.n_supervised or n_stages - 1, n_stages - 1)


def replace_network(architecture: Mapping[str, Any], name: str, patch: Sequence[int]) -> dict[str, Any]:
    """Return an architecture block that names a network of ours by its dotted path, in the sizes of another.

    nnU-Net builds the network with these keywords alone, and derives the supervised resolutions from
    `strides`. So they include the patch, for weights that depend on it, and strides even for networks of
    fixed topology.
    """
    config = get_config(name)
    if isinstance(config, FixedConfig):
        kwargs: dict[str, Any] = {"strides": [[stride] * len(patch) for stride in config.plan_strides()]}
    else:
        sizes = architecture["arch_kwargs"]
        check_sizes(sizes)
        depths = next(key for key in ENCODER_DEPTHS if key in sizes)
        kwargs = {key: deepcopy(sizes[key]) for key in (*NEEDED, depths)}
        kwargs["patch_size"] = [int(size) for size in patch]
    return {"network_class_name": DOTTED + name, "arch_kwargs": kwargs, "_kw_requires_import": []}


def resize_architecture(
    architecture: Mapping[str, Any],
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features: Sequence[int],
) -> dict[str, Any]:
    """Return a copy of an architecture block of plans in another topology.

    Counts of convolutions or blocks keep their first entries; the last one repeats for additional stages.
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


def _to_tuples(value: Any) -> Any:
    """Convert nested lists to nested tuples of ints; an int (the same for all stages) stays an int."""
    if isinstance(value, (list, tuple)):
        return tuple(_to_tuples(item) for item in value)
    return int(value)


def check_sizes(architecture: Mapping[str, Any]) -> None:
    """Raise ValueError if the arch_kwargs of a plan lack a size that networks of its topology need."""
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


def _check_patch(architecture: Mapping[str, Any], patch: Sequence[int]) -> None:
    """Raise ValueError if the patch in the arch_kwargs is not that of the plan."""
    own = architecture.get("patch_size", patch)
    if list(own) != list(patch):
        raise ValueError(
            f"The plan's patch_size is {list(patch)}, but in its architecture.arch_kwargs it is {list(own)}. "
            "They must be equal, for weights may depend on it: correct the plans file."
        )


def _check_operators(architecture: Mapping[str, Any]) -> None:
    """Raise ValueError unless every key is a size that we read, an nnU-Net default, or off."""
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


def _check_stage_counts(sizes: Mapping[str, Any]) -> None:
    """Raise ValueError unless all sizes have an entry per stage."""
    n_stages = len(sizes["strides"])
    for key, value in sizes.items():
        expected = n_stages - 1 if key == "n_conv_per_stage_decoder" else n_stages
        if isinstance(value, tuple) and len(value) != expected:
            raise ValueError(
                f"The plan's {key} has {len(value)} entries, but its strides make {n_stages} stages: "
                f"expected {expected}. Correct the plans file, or plan the dataset anew."
            )
