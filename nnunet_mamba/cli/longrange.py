"""nnunet-mamba convert longrange: the positive control, which is made here and has options of its own."""

import argparse

from nnunet_mamba.io.messages import join_names

OWN = ("distance", "shape", "along", "cases", "seed")  # options
OF_RELEASES = ("partial", "symlink", "dry_run", "accept", "leave_out_faulty", "resize", "workers")


def add_options(p: argparse.ArgumentParser) -> None:
    """Add the options of the positive control to those of `convert`."""
    made = p.add_argument_group(
        "longrange",
        "is made here, not read: images whose labels depend on cues far away (docs/longrange.md).",
    )
    made.add_argument("--distance", type=int, metavar="N", help="voxels between a label and its cue")
    made.add_argument("--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="default: 1 128 128")
    made.add_argument("--along", choices=tuple("zyx"), help="axis from cue to label (default: x)")
    made.add_argument("--cases", type=int, metavar="N", help="default: 120")
    made.add_argument("--seed", type=int, metavar="N", help="default: 0")


def check_no_options(args: argparse.Namespace) -> None:
    """Raise ValueError if a release was given options of the positive control."""
    if given := [f"--{name}" for name in OWN if getattr(args, name) is not None]:
        raise ValueError(f"longrange alone has {join_names(given)}; leave them out.")


def make(args: argparse.Namespace) -> int:
    """Make the positive control as a raw dataset. ValueError for options that are of releases."""
    from nnunet_mamba.nnunet.paths import get_nnunet_folder
    from nnunet_mamba.study.datasets.convert import check_target, find_numbered, replace_number
    from nnunet_mamba.study.datasets.longrange import FOLDER, NUMBER, write_longrange_dataset

    _check_request(args)
    raw = args.raw or get_nnunet_folder("nnUNet_raw")
    number = NUMBER if args.dataset_id is None else args.dataset_id
    if args.unless_there and (existing := find_numbered(raw, number)):
        print(f"{existing} is there")
        return 0
    folder = raw / replace_number(f"Dataset000_{FOLDER}", number)
    check_target(folder)
    options = {"along": args.along, "shape": args.shape and tuple(args.shape)}
    options |= {"n_cases": args.cases, "seed": args.seed}
    given = {name: value for name, value in options.items() if value is not None}
    write_longrange_dataset(folder, distance=args.distance, **given)
    n_cases = len(list((folder / "labelsTr").iterdir()))
    print(f"-> {folder}: {n_cases} cases; labels depend on cues more than {args.distance} voxels away")
    print(f"next: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")
    return 0


def _check_request(args: argparse.Namespace) -> None:
    if args.source or args.distance is None:
        raise ValueError("longrange is made here: expected no SOURCE, and --distance N.")
    if args.split != "5fold":
        raise ValueError("longrange has nnU-Net's five folds; `nnunet-mamba plans split` makes others.")
    if given := [f"--{name.replace('_', '-')}" for name in OF_RELEASES if getattr(args, name)]:
        raise ValueError(f"Releases alone have {join_names(given)}; leave them out.")
