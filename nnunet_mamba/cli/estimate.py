"""nnunet-mamba estimate: peak memory of a training step, without running it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli.networks import (
    add_plans,
    channels_and_classes,
    check_configuration,
    configuration_of,
    read_plans,
)
from nnunet_mamba.io.resources import check_device
from nnunet_mamba.nnunet.catalogue import check_network
from nnunet_mamba.nnunet.paths import resolve_plans_file

if TYPE_CHECKING:
    from nnunet_mamba.memory.estimate import MemoryEstimate


def add(commands: Any) -> None:
    p = commands.add_parser("estimate")
    add_plans(p, "plans", nargs="?")
    p.add_argument("--network", help="see `nnunet-mamba networks`")
    p.add_argument("--mixer", metavar="WORD", help="not the network's own: mamba2, attention, conv, none")
    p.add_argument("--device", default="cpu", help="cpu, cuda, or the profile (.json) of another device")
    p.add_argument("--batch", type=int, help="patches per step (default: the plans')")
    p.add_argument("--patch", type=int, nargs="+", metavar="VOXELS", help="per axis (default: the plans')")
    p.add_argument("--checkpoint-stages", type=_stages, default=0, metavar="K", help='a number, or "all"')
    p.add_argument("--precision", choices=("fp32", "fp16"), help="default: fp32 on CPUs, fp16 on CUDA")
    p.add_argument("--measure", type=Path, metavar="JSON", help="measure cpu or cuda, and write its profile")
    p.add_argument("--threads", type=int, help="of the CPU, for --measure (default: torch's)")
    p.set_defaults(run=estimate)


def _stages(text: str) -> int | str:
    """Parse a number, or leave the text for `create_network` to check."""
    return text if text == "all" or not text.isdecimal() else int(text)


def estimate(args: argparse.Namespace) -> int:
    if args.measure is not None:
        return _measure(args)
    _check_options(args)
    path = resolve_plans_file(args.plans)
    plans = read_plans(path)
    check_configuration(plans, args.configuration)
    from nnunet_mamba.memory.estimate import estimate_memory
    from nnunet_mamba.memory.profile import load_profile

    profile = load_profile(args.device)
    sizes, batch = _read_sizes(args, plans, path)
    precision = args.precision or profile.precision
    result = estimate_memory(
        args.network,
        sizes,
        batch=batch,
        profile=profile,
        precision=precision,
        checkpoint_stages=args.checkpoint_stages,
    )
    patch = "x".join(map(str, sizes["patch_size"]))
    name = args.network + (f" with mixer {args.mixer}" if args.mixer else "")
    print(f"{name}, batch {batch}, patch {patch}, {precision}, on {args.device} ({profile.description})")
    _print_memory(result, measured=bool(profile.workspace))
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise ValueError for options that are wrong whatever the plans are."""
    if args.threads is not None:
        raise ValueError(
            f"--threads {args.threads} goes with --measure; a prediction is for the threads of its profile. "
            f"Drop it, or measure: --measure NAME.json --threads {args.threads}."
        )
    if args.plans is None:
        raise ValueError("expected PLANS and --network NAME, or --measure JSON for a new device.")
    if args.network is None:
        raise ValueError("--network is missing; `nnunet-mamba networks` lists them.")
    check_network(args.network)
    if min(1 if args.batch is None else args.batch, *(args.patch or [1])) < 1:
        raise ValueError(
            f"--batch and --patch must be positive, got batch {args.batch} and patch {args.patch}."
        )
    check_device(args.device)


def _read_sizes(args: argparse.Namespace, plans: dict, path: Path) -> tuple[dict[str, Any], int]:
    """Return the arguments of `create_network`, and the batch size."""
    from nnunet_mamba.plans import network_sizes

    configuration = configuration_of(plans, args.configuration)
    sizes = network_sizes(args.network, configuration)
    sizes |= {} if args.mixer is None else {"mixer": args.mixer}
    channels, classes = channels_and_classes(args, plans, path)
    batch = configuration.batch_size if args.batch is None else args.batch
    patch = sizes["patch_size"] if args.patch is None else tuple(args.patch)
    if len(patch) != len(sizes["patch_size"]):
        n = len(sizes["patch_size"])
        raise ValueError(f"--patch takes {n} numbers for {args.configuration}, got {len(patch)}.")
    return {**sizes, "patch_size": patch, "input_channels": channels, "num_classes": classes}, batch


def _print_memory(result: "MemoryEstimate", measured: bool) -> None:
    """Print the peak and its parts; parts of zero only if the device is measured."""
    note = "" if measured else ", tensors alone: workspace and allocator of this device are not measured"
    print(f"peak memory  {result.peak_bytes / 2**20:8.0f} MiB{note}")
    for name, size in result.parts.items():
        if size or measured:
            print(f"  {size / 2**20:17.1f}  {name}")


def _measure(args: argparse.Namespace) -> int:
    """Measure the device, and write its profile."""
    from nnunet_mamba.memory.measure import measure_profile

    if args.device not in ("cpu", "cuda"):
        raise ValueError(f"--measure takes --device cpu or cuda, got {args.device!r}.")
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads must be positive, got {args.threads}; leave it out for torch's choice.")
    precision = args.precision or ("fp16" if args.device == "cuda" else "fp32")
    measure_profile(args.device, precision, args.threads).save(args.measure)
    print(f"-> {args.measure}; use it with --device {args.measure}")
    return 0
