"""nnunet-mamba networks: the names of the networks, and their size on a plan."""

import argparse
import json
from pathlib import Path
from typing import Any

WHERE_PLANS_ARE = "in nnUNet_preprocessed, such as Dataset004_Hippocampus/nnUNetPlans.json"


def add(commands: Any) -> None:
    p = commands.add_parser(
        "networks", help="list the networks; with --plans, their parameter counts on that plan"
    )
    p.add_argument("--plans", type=Path, help="plans file of nnU-Net (.json)")
    p.add_argument(
        "--configuration", default="3d_fullres", help="configuration of the plans (default: 3d_fullres)"
    )
    p.add_argument(
        "--channels", type=int, help="input channels (default: as in dataset.json beside the plans)"
    )
    p.add_argument("--classes", type=int, help="output channels, background included (default: likewise)")
    p.set_defaults(run=networks)


def networks(args: argparse.Namespace) -> int:
    from nnunet_mamba import list_networks

    if args.plans is None:
        print("\n".join(list_networks()))
        return 0
    plans = read_plans(args.plans)
    configuration = configuration_of(plans, args.configuration)
    channels, classes = channels_and_classes(args, plans)
    print(f"{args.configuration} of {args.plans.name}, {channels} -> {classes} channels; parameters:")
    for name in list_networks():
        print(f"{name:20s} {_size(name, configuration, channels, classes)}")
    return 0


def read_plans(path: Path) -> dict:
    """The content of a plans file. ValueError for other files."""
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected the plans of a dataset, {WHERE_PLANS_ARE}.")
    try:
        plans = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). Plans are {WHERE_PLANS_ARE}.") from error
    if not isinstance(plans, dict) or "configurations" not in plans:
        raise ValueError(
            f"{path} has no configurations, so it is no plans file. Plans are {WHERE_PLANS_ARE}."
        )
    return plans


def channels_and_classes(args: argparse.Namespace, plans: dict) -> tuple[int, int]:
    """Input and output channels, from the options or else from the dataset.json beside the plans."""
    if args.channels is not None and args.classes is not None:
        return args.channels, args.classes
    path = args.plans.with_name("dataset.json")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give --channels and --classes.")
    from nnunet_mamba.plans import files

    configuration_of(plans, args.configuration)
    channels, classes = files.channels_and_classes(plans, args.configuration, json.loads(path.read_text()))
    return args.channels or channels, args.classes or classes


def configuration_of(plans: dict, name: str) -> Any:
    """nnU-Net's ConfigurationManager for one configuration."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if name not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise ValueError(f"No configuration {name!r} in the plans; choose one of {known}.")
    return PlansManager(plans).get_configuration(name)


def _size(name: str, configuration: Any, channels: int, classes: int) -> str:
    """The number of parameters, or why this network cannot be built on the plan."""
    import torch

    from nnunet_mamba import create_network
    from nnunet_mamba.plans import network_sizes

    sizes = network_sizes(name, configuration)
    try:
        with torch.device("meta"):  # shapes only: no memory, no time
            network = create_network(name, input_channels=channels, num_classes=classes, **sizes)
    except ValueError as error:
        return f"not on this plan: {error}"
    return f"{sum(parameter.numel() for parameter in network.parameters()):>13,d}"
