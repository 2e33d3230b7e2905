"""nnunet-mamba inspect: scan maps, features and receptive field of a trained network on an image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli import check_files

if TYPE_CHECKING:
    from numpy import ndarray

    from nnunet_mamba.analysis.load import Patch, TrainedNetwork

KINDS = ("scan", "features", "field")


def add(commands: Any) -> None:
    p = commands.add_parser(
        "inspect",
        description="Takes one patch of an image as nnU-Net prepares it, on the CPU, and writes pictures and "
        "their numbers (.npz): rows of the unrolled scan matrix of chosen voxels, the spread of features "
        "inside and outside of the residual branches, the effective receptive field.",
        epilog="example: nnunet-mamba inspect fold_0/checkpoint_final.pth case_0000.nii.gz --voxel 20 31 40",
    )
    p.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="of nnU-Net, such as checkpoint_final.pth"
    )
    p.add_argument(
        "image", metavar="IMAGE", nargs="+", type=Path, help="one file per channel, in their order"
    )
    p.add_argument(
        "--voxel",
        type=int,
        nargs=3,
        action="append",
        metavar=("Z", "Y", "X"),
        help="voxel of the image to look at; may be repeated (default: the middle of the patch)",
    )
    p.add_argument(
        "--centre",
        type=int,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="voxel around which the patch is (default: the first --voxel, else the middle of the image)",
    )
    p.add_argument("--patch", type=int, nargs="+", metavar="N", help="voxels per axis (default: the plans')")
    p.add_argument(
        "--stage", type=int, metavar="K", help="scans of this stage only; 0 is the full resolution"
    )
    p.add_argument(
        "--only", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS) + " (default: all)"
    )
    p.add_argument("--out", type=Path, default=Path("inspect"), metavar="DIR", help="default: ./inspect")
    p.set_defaults(run=inspect)


def inspect(args: argparse.Namespace) -> int:
    check_files([args.checkpoint], "a checkpoint of nnU-Net, such as checkpoint_final.pth")
    check_files(args.image, "an image, or one per channel")
    from nnunet_mamba.analysis.load import load_trained, read_patch

    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{args.out} is a file; --out takes a folder.")
    trained = load_trained(args.checkpoint)
    centre = args.centre or (args.voxel[0] if args.voxel else None)
    patch = read_patch(trained, args.image, centre, args.patch)
    places = [patch.locate(v) for v in args.voxel] if args.voxel else [tuple(n // 2 for n in patch.grid)]
    print(f"{trained.trainer}: a patch of {' x '.join(map(str, patch.grid))} voxels at {patch.extent()}")
    numbers: dict[str, Any] = {"patch": patch.data[0].numpy(), "places": places}
    if "scan" in (args.only or KINDS):
        try:
            numbers |= _scans(trained, patch, places, args.stage, args.out)
        except ValueError as error:
            if args.only:
                raise
            print(f"no scans: {error}")
    if "features" in (args.only or KINDS):
        numbers |= _features(trained, patch, args.out)
    if "field" in (args.only or KINDS):
        numbers |= _field(trained, patch, places, args.out)
    import numpy as np

    np.savez_compressed(args.out / "inspect.npz", **numbers)
    print(f"-> {args.out / 'inspect.npz'}")
    return 0


def _scans(
    trained: TrainedNetwork, patch: Patch, places: Sequence[tuple[int, ...]], stage: int | None, out: Path
) -> dict[str, ndarray]:
    """Write the maps of the scans for each place, and return their numbers."""
    from nnunet_mamba.analysis.activations import record_scan_inputs
    from nnunet_mamba.analysis.attention import compute_attention
    from nnunet_mamba.analysis.figures import draw_attention

    inputs = record_scan_inputs(trained.network, patch.data)
    chosen = [one for one in inputs if stage is None or one.stage == stage]
    if not chosen:
        stages = sorted({one.stage for one in inputs})
        raise ValueError(f"No scan is at stage {stage}; there are scans at {', '.join(map(str, stages))}.")
    out.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for k, place in enumerate(places):
        found = [compute_attention(one, place) for one in chosen]
        for one in found:
            for direction, values in one.maps.items():
                numbers[f"scan/{k}/{one.name}/{direction}"] = values.float().numpy()
        file = out / f"scan_{k}.png"
        title = f"{trained.trainer}\nrows of the scan matrix for the voxel {place} of the patch"
        draw_attention(file, found, patch.data[0, 0], place, title)
        print(f"{len(found)} blocks, {sum(len(one.maps) for one in found)} maps -> {file}")
    return numbers


def _features(trained: TrainedNetwork, patch: Patch, out: Path) -> dict[str, Any]:
    """Write and print the distribution of the features, and return its numbers."""
    from nnunet_mamba.analysis.activations import measure_spreads
    from nnunet_mamba.analysis.figures import draw_feature_spreads

    found = measure_spreads(trained.network, patch.data)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "features.png"
    draw_feature_spreads(
        file, found, f"{trained.trainer}: features inside (solid) and outside (dashed) of the branch"
    )
    print(f"{'block':36s} {'part':8s} {'where':8s} {'mean':>9s} {'variance':>9s}")
    for one in found:
        where = "inside" if one.inside else "outside"
        print(f"{one.block:36s} {one.part:8s} {where:8s} {one.mean:9.3f} {one.variance:9.3g}")
    print(f"-> {file}")
    return {
        "features/block": [one.block for one in found],
        "features/part": [one.part for one in found],
        "features/inside": [one.inside for one in found],
        "features/mean": [one.mean for one in found],
        "features/variance": [one.variance for one in found],
        "features/histogram": [one.histogram.numpy() for one in found],
    }


def _field(
    trained: TrainedNetwork, patch: Patch, places: Sequence[tuple[int, ...]], out: Path
) -> dict[str, ndarray]:
    """Write the receptive field of each place, and return its numbers."""
    from nnunet_mamba.analysis.attention import compute_receptive_field
    from nnunet_mamba.analysis.figures import draw_field

    numbers = {}
    for k, place in enumerate(places):
        field = compute_receptive_field(trained.network, patch.data, place)
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"field_{k}.png"
        draw_field(file, field, patch.data[0, 0], f"{trained.trainer}: receptive field of the voxel {place}")
        numbers[f"field/{k}"] = field.gradient.float().numpy()
        radii = ", ".join(f"{f:.0%} within {field.radius(f):.1f}" for f in (0.5, 0.95))
        print(f"output {field.label} at {place}: gradient {radii} voxels -> {file}")
    return numbers
