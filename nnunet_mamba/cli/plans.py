"""nnunet-mamba plans: templates of papers, checks, and plans for a network and a card."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from nnunet_mamba.cli import show_help, split
from nnunet_mamba.cli.networks import PLANS_HELP
from nnunet_mamba.io.resources import check_device, template_file, template_names
from nnunet_mamba.nnunet.catalogue import check_network
from nnunet_mamba.nnunet.paths import find_dataset, resolve_plans_file

GIB = 2**30
PLAN_IT = "Plan it: nnUNetv2_plan_and_preprocess -d ID."


def add(commands: Any) -> None:
    p = commands.add_parser("plans")
    p.set_defaults(run=show_help(p))
    verbs = p.add_subparsers(dest="plans_verb", metavar="VERB")
    for add_verb in (split.add, add_templates, add_apply, add_check, add_make):
        add_verb(verbs)


def add_templates(verbs: Any) -> None:
    p = verbs.add_parser("templates", help="list the templates: papers' patches, batches and topologies")
    p.set_defaults(run=templates)


def add_apply(verbs: Any) -> None:
    p = verbs.add_parser("apply", help="lay a template over a dataset's own plans, as a new plans file")
    p.add_argument("template", help="see `nnunet-mamba plans templates`; or a file of your own (.json)")
    p.add_argument("dataset", help="its number, name (Dataset###_Name) or folder")
    p.add_argument("--network", help="name it in the plans, so that nnU-Net's own trainer trains it")
    p.add_argument(
        "--fit-images", action="store_true", help="cut a patch to the median image, if it is longer"
    )
    p.add_argument("--vram-gb", type=float, metavar="G", help="make batch, then patch smaller to fit G GiB")
    p.add_argument("--plans", default="nnUNetPlans", help="the dataset's own (default: nnUNetPlans)")
    p.add_argument("--name", help="of the new plans (default: <plans>_<template>[_<network>])")
    add_device(p)
    add_replace(p)
    p.set_defaults(run=apply)


def add_check(verbs: Any) -> None:
    p = verbs.add_parser("check", help="is a plans file sound, and which networks fit it? 1 if it is not")
    p.add_argument("plans", metavar="PLANS", help=PLANS_HELP)
    p.add_argument("--network", nargs="+", help="only these (default: all), and the plans' own")
    p.add_argument("--configuration", nargs="+", help="only these (default: all)")
    p.add_argument(
        "--channels", type=int, help="input channels (default: from dataset.json beside the plans)"
    )
    p.add_argument("--classes", type=int, help="output channels, background included (default: likewise)")
    add_device(p)
    p.set_defaults(run=check)


def add_make(verbs: Any) -> None:
    p = verbs.add_parser("make", help="plan a dataset for a network and a card, by nnU-Net's own rules")
    p.add_argument("dataset", help="its number, name or folder; its fingerprint must be extracted")
    p.add_argument("--network", required=True, help="see `nnunet-mamba networks`")
    p.add_argument("--vram-gb", type=float, required=True, metavar="G", help="memory of the card")
    p.add_argument("--name", help="of the plans (default: nnUNetMambaPlans_<G>G_<network>)")
    add_device(p)
    add_replace(p)
    p.set_defaults(run=make)


def add_device(p: argparse.ArgumentParser) -> None:
    """Add --device, for estimates of memory."""
    text = "cpu, cuda (default), or the profile (.json) of another device, for estimates of memory"
    p.add_argument("--device", default="cuda", help=text)


def add_replace(p: argparse.ArgumentParser) -> None:
    """Add --replace, for plans of the same name."""
    p.add_argument("--replace", action="store_true", help="overwrite other plans of that name")


def templates(args: argparse.Namespace) -> int:
    from nnunet_mamba.nnunet.templates import load_template

    for name in template_names():
        template = load_template(name)
        print(f"{name:20s} {template.network:11s} for {', '.join(template.datasets) or 'any dataset'}")
        for configuration, pinned in template.configurations.items():
            patch = times(pinned["patch_size"]) if "patch_size" in pinned else "the dataset's patch"
            n_stages = f", {len(pinned['strides'])} stages" if "strides" in pinned else ""
            print(f"    {configuration}: {patch}, batch {pinned['batch_size']}{n_stages}")
        for dimension, budget in template.budget.items():
            most = f"at most {budget['max_patch_vox']} voxels, batch {budget['max_batch_size']}"
            print(f"    {dimension}: {most}, features from {budget['base_features']}")
        print(f"    {template.paper}" + (f". {template.note}" if template.note else ""))
    return 0


def apply(args: argparse.Namespace) -> int:
    template_file(args.template)
    if args.network is not None:
        check_network(args.network)
    check_device(args.device)
    folder = find_dataset("nnUNet_preprocessed", args.dataset, PLAN_IT)
    from nnunet_mamba.nnunet.templates import load_template
    from nnunet_mamba.plans.apply import apply_template
    from nnunet_mamba.plans.files import read_dataset_plans, write_plans

    template = load_template(args.template)
    plans = read_dataset_plans(folder, args.plans)
    name = args.name or "_".join(filter(None, (args.plans, template.name, args.network)))
    network = args.network or template.network
    fitting = {} if args.vram_gb is None else fit_arguments(args, plans, folder, network)
    applied = apply_template(
        plans, template, name, network=args.network, fit_images=args.fit_images, **fitting
    )
    path = write_plans(folder, applied.plans, replace=args.replace)
    for configuration, change in applied.changed.items():
        text = describe(change.patch, change.batch, change.architecture)
        print(f"{configuration}: {text}" + "".join(f"; {note}" for note in change.notes))
        if change.warning:
            print(f"warning: {configuration}: {change.warning}", file=sys.stderr)
    for note in (*applied.notes, template.note):
        if note:
            print(f"note: {note}")
    print(f"-> {path}")
    print_training(applied.plans, list(applied.changed), args.network or template.network)
    return 0


def fit_arguments(args: argparse.Namespace, plans: dict, folder: Path, network: str) -> dict[str, Any]:
    """Return the arguments of `apply_template` that fit a template to --vram-gb."""
    from nnunet_mamba.memory.profile import load_profile
    from nnunet_mamba.plans.architecture import count_channels_and_classes
    from nnunet_mamba.plans.files import read_json_object
    from nnunet_mamba.plans.memory import RESERVE, StepMemory, budget_bytes

    dataset = read_json_object(folder / "dataset.json", "nnUNetv2_plan_experiment puts it there.")
    sizes = count_channels_and_classes(plans, next(iter(plans["configurations"])), dataset)
    budget = budget_bytes(args.vram_gb)
    print(
        f"{network} is given {budget / GIB:.1f} GiB of {args.vram_gb:g}: {RESERVE:.0%} kept free, unmeasured"
    )
    return {"memory": StepMemory(network, *sizes, load_profile(args.device)), "budget": budget}


def print_training(plans: dict, configurations: list[str], network: str) -> None:
    """Print the commands that train the plans, by nnU-Net's own trainer if they name a network of ours."""
    from nnunet_mamba.plans.architecture import count_outputs, get_network_name
    from nnunet_mamba.plans.files import resolve

    number, name = int(plans["dataset_name"][7:10]), plans["plans_name"]
    trainer = trainer_of(network)
    for configuration in configurations:
        architecture = resolve(plans, configuration)["architecture"]
        command = shlex.join(("nnUNetv2_train", str(number), configuration, "0", "-p", name))
        if get_network_name(architecture):
            single = count_outputs(network, len(architecture["arch_kwargs"]["strides"])) == 1
            stock = " -tr nnUNetTrainerNoDeepSupervision" if single else ""
            print(f"{command}{stock}    # nnU-Net's own trainer and recipe")
        if trainer:
            print(f"{command} -tr {trainer}    # {network} by this package's recipe")


def trainer_of(network: str) -> str | None:
    """Return the trainer of this package for a network, of nnU-Net's usual length; None if it has none."""
    from nnunet_mamba import trainers

    names = [n for n in trainers.__all__ if getattr(getattr(trainers, n), "network_name", None) == network]
    return min(names, key=len, default=None)


def check(args: argparse.Namespace) -> int:
    from nnunet_mamba.cli.networks import (
        channels_and_classes,
        check_configuration,
        configuration_of,
        read_plans,
    )

    for network in args.network or ():
        check_network(network)
    check_device(args.device)
    path = resolve_plans_file(args.plans)
    plans = read_plans(path)
    for name in args.configuration or ():
        check_configuration(plans, name)
    from nnunet_mamba.memory.profile import load_profile
    from nnunet_mamba.plans.apply import PLANNED
    from nnunet_mamba.plans.check import find_issues

    profile = load_profile(args.device)
    issues = find_issues(plans, path.stem)
    for issue in issues:
        print(f"fault: {issue}")
    if issues:
        return 1
    names = args.configuration or [name for name in plans["configurations"] if not name.endswith(PLANNED)]
    failing = []
    for name in names:
        configuration_of(plans, name)
        of_this = argparse.Namespace(**{**vars(args), "configuration": name})
        sizes = channels_and_classes(of_this, plans, path)
        if not print_networks(plans, name, sizes, profile, args.network):
            failing.append(name)
    print(f"{path.name}: " + (f"its own network fails in {', '.join(failing)}" if failing else "sound"))
    return 1 if failing else 0


def print_networks(plans: dict, name: str, sizes: tuple[int, int], profile: Any, networks: Any) -> bool:
    """Print a line for every network on one configuration as soon as it is checked, and return True if the
    plans' own, the first, can be trained."""
    from nnunet_mamba.plans.check import check_networks
    from nnunet_mamba.plans.files import resolve

    own = resolve(plans, name)
    head = f"{times(own['patch_size'])}, batch {own['batch_size']}, {sizes[0]} -> {sizes[1]} channels"
    print(f"{name}: {head}; parameters, memory of a step ({profile.precision}, {profile.device}), outputs")
    errors = []
    for found in check_networks(own, *sizes, profile, networks):
        errors.append(found.error)
        label = found.network.rsplit(".", 1)[-1]
        size = f"{found.parameters:>13,d} {found.memory_bytes / GIB:8.2f} GiB {found.n_outputs:>3d}"
        print(f"  {label:20s} {found.error or size}", flush=True)
    return not errors[0]


def make(args: argparse.Namespace) -> int:
    check_network(args.network)
    check_device(args.device)
    find_dataset("nnUNet_preprocessed", args.dataset, "nnUNetv2_extract_fingerprint -d ID makes it.")
    from nnunet_mamba.memory.profile import load_profile

    profile = load_profile(args.device)
    from nnunet_mamba.plans.memory import RESERVE, budget_bytes
    from nnunet_mamba.plans.planner import make_plans

    planned = make_plans(
        args.dataset, args.network, args.vram_gb, profile, name=args.name, replace=args.replace
    )
    budget = budget_bytes(args.vram_gb) / GIB
    print(
        f"{args.network} on {args.vram_gb:g} GiB: {budget:.1f} counted, {RESERVE:.0%} kept free, unmeasured"
    )
    for name, own in planned.plans["configurations"].items():
        if name in planned.memory_bytes:
            text = describe(own["patch_size"], own["batch_size"], own["architecture"])
            print(
                f"{name}: {text}, {planned.memory_bytes[name] / GIB:.1f} GiB, data {own['data_identifier']}"
            )
    print(f"-> {planned.path}")
    print_training(planned.plans, list(planned.plans["configurations"]), args.network)
    return 0


def describe(patch: Any, batch: int, architecture: Any) -> str:
    """Return patch, batch and number of stages as text."""
    stages = architecture["arch_kwargs"].get("features_per_stage")  # not of networks of fixed topology
    return f"{times(patch)}, batch {batch}" + (f", {len(stages)} stages" if stages else "")


def times(sizes: Any) -> str:
    """Return sizes as "40x56x40"."""
    return "x".join(str(size) for size in sizes)
