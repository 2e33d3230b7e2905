"""nnunet-mamba networks: names of the networks, and their sizes for plans."""

import argparse
import json
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.nnunet.paths import WHERE_PLANS_ARE, resolve_plans_file

PLANS_HELP = "a plans file of nnU-Net (.json), or a dataset by its number, name or folder: its nnUNetPlans"


def add(commands: Any) -> None:
    p = commands.add_parser("networks", epilog="example: nnunet-mamba networks --plans 4")
    p.add_argument(
        "word", metavar="WORD", nargs="?", default="", help="only those whose name or paper has it"
    )
    add_plans(p, "--plans")
    p.set_defaults(run=networks)


def add_plans(p: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Add the options that choose a plans file, a configuration, and channels of input and output."""
    p.add_argument(name, metavar="PLANS", help=PLANS_HELP, **options)
    p.add_argument("--configuration", default="3d_fullres", help="of the plans (default: 3d_fullres)")
    text = "input channels (default: as in dataset.json beside the plans)"
    p.add_argument("--channels", type=int, help=text)
    p.add_argument("--classes", type=int, help="output channels, background included (default: likewise)")


def networks(args: argparse.Namespace) -> int:
    from nnunet_mamba.cli.trainers import dimensions_text, has_word, network_words, print_table
    from nnunet_mamba.nnunet.catalogue import FAMILY, NO_SSM, TRAINERS, list_network_names

    found = [name for name, row in FAMILY.items() if has_word((name, *network_words(row)), args.word)]
    if not found:
        raise ValueError(
            format_unknown_name("network", args.word, list_network_names(), "nnunet-mamba networks")
        )
    if args.plans is not None:
        return _sizes(args, [name for name in list_network_names() if name.removesuffix(NO_SSM) in found])
    trainers = {row.network: row.name for row in reversed(TRAINERS)}  # the first of each
    rows = [
        (
            name,
            row.title,
            row.paper,
            dimensions_text(row.ndims),
            f"{name}{NO_SSM}" if row.has_ssm else "-",
            trainers[name],
        )
        for name, row in FAMILY.items()
        if name in found
    ]
    print_table(("network", "title", "paper", "axes", "without SSM", "trainer"), rows)
    return 0


def _sizes(args: argparse.Namespace, names: list[str]) -> int:
    """Print the number of parameters of each network for a configuration."""
    path = resolve_plans_file(args.plans)
    plans = read_plans(path)
    configuration = configuration_of(plans, args.configuration)
    channels, classes = channels_and_classes(args, plans, path)
    print(f"{args.configuration} of {path.name}, {channels} -> {classes} channels; parameters:")
    for name in names:
        print(f"{name:20s} {_size(name, configuration, channels, classes)}")
    return 0


def read_plans(path: Path) -> dict:
    """Read a plans file. ValueError for other files."""
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). Plans are {WHERE_PLANS_ARE}.") from error
    if not isinstance(plans, dict) or "configurations" not in plans:
        raise ValueError(
            f"{path} has no configurations, so it is not a plans file. Plans are {WHERE_PLANS_ARE}."
        )
    return plans


def channels_and_classes(args: argparse.Namespace, plans: dict, path: Path) -> tuple[int, int]:
    """Return input and output channels, from the options or else from dataset.json beside the plans."""
    if args.channels is not None and args.classes is not None:
        return args.channels, args.classes
    description = path.with_name("dataset.json")
    if not description.is_file():
        raise ValueError(f"{description} does not exist; give --channels and --classes.")
    from nnunet_mamba.plans import architecture

    configuration_of(plans, args.configuration)
    channels, classes = architecture.count_channels_and_classes(
        plans, args.configuration, json.loads(description.read_text(encoding="utf-8"))
    )
    return args.channels or channels, args.classes or classes


def configuration_of(plans: dict, name: str) -> Any:
    """Return nnU-Net's ConfigurationManager for one configuration."""
    check_configuration(plans, name)
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    return PlansManager(plans).get_configuration(name)


def check_configuration(plans: dict, name: str) -> None:
    """Raise ValueError for a configuration that the plans lack."""
    if name not in plans["configurations"]:
        raise ValueError(format_unknown_name("configuration of these plans", name, plans["configurations"]))


def _size(name: str, configuration: Any, channels: int, classes: int) -> str:
    """Return the number of parameters, or the reason why this network cannot be built for the plan."""
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
