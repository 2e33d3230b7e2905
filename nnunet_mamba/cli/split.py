"""nnunet-mamba plans split: give a dataset another split, or check the one it has."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet.splits import SPLITS, find_splits, read_splits


def add(commands: Any) -> None:
    p = commands.add_parser(
        "split",
        help="split a dataset by a paper's cases or by patients; or check a split for leaks",
        description="Writes splits_final.json and moves test cases to imagesTs; or, with --check, says what "
        "is wrong with the present split. Exit code 1: it leaks, or cases are missing.",
    )
    p.add_argument("dataset", metavar="DATASET", help="its number, name (Dataset###_Name) or folder")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--name", "--split", metavar="SPLIT", help="5fold, 7:3, or that of a paper")
    what.add_argument(
        "--check",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="splits_final.json to check (default: the dataset's)",
    )
    p.add_argument("--release", metavar="NAME", help="what it was made of, if not by `convert`: acdc, ...")
    p.add_argument(
        "--group", metavar="REGEX", help="what names the patient at the beginning of a case's name"
    )
    p.add_argument("--partial", action="store_true", help="a paper's split of which cases are missing")
    p.add_argument("--unless-there", action="store_true", help="keep the split that the dataset has")
    p.add_argument("--allow-leaks", action="store_true", help="to reproduce a paper that split images")
    p.set_defaults(run=split)


def split(args: argparse.Namespace) -> int:
    from nnunet_mamba.nnunet.paths import get_nnunet_folder, resolve_dataset_name
    from nnunet_mamba.study.datasets.resplit import read_unsplit_dataset, resplit_dataset
    from nnunet_mamba.study.datasets.specs import DATASETS, get_spec, guess_group

    name = resolve_dataset_name(args.dataset)
    folder = get_nnunet_folder("nnUNet_raw") / name
    preprocessed = get_nnunet_folder("nnUNet_preprocessed") / name
    if args.unless_there and (existing := find_splits(preprocessed, folder)):
        print(f"{existing} is there")
        return 0
    source = read_unsplit_dataset(folder)
    release = get_spec(args.release)[0] if args.release else source.notes.release
    group = args.group or source.notes.group
    if group is None:
        group = DATASETS[release].group if release in DATASETS else guess_group(source)
    source = replace(source, notes=replace(source.notes, release=release, group=group))
    if args.check is not None:
        return _check(args.check, folder, preprocessed, source)
    options = {"allow_leaks": args.allow_leaks, "partial": args.partial}
    done = resplit_dataset(folder, source, args.name, preprocessed=preprocessed, **options)
    sizes = ", ".join(f"{len(fold.train)}/{len(fold.val)}" for fold in done.folds)
    print(f"-> {folder / SPLITS}: training/validation {sizes}; test {len(done.test)}")
    return 0


def _check(file: Path, folder: Path, preprocessed: Path, source: Any) -> int:
    """Print the problems of a split and return the exit code; for Path(), of the one in use."""
    from nnunet_mamba.study.datasets.resplit import find_split_problems
    from nnunet_mamba.study.datasets.splits import Split, build_group_fn

    found = find_splits(preprocessed, folder) if file == Path() else file
    if found is None or not found.is_file():
        sought = [file] if file != Path() else [preprocessed / SPLITS, folder / SPLITS]
        raise ValueError(f"There is no {' nor '.join(map(str, sought))} to check.")
    moved = set(source.notes.moved)
    pool = [name for name in source.labelled_names() if name not in moved]
    split = Split(read_splits(found))
    problems = find_split_problems(split, pool, moved, build_group_fn(source.notes.group))
    by = f"patients ({source.notes.group})" if source.notes.group else "cases"
    print("\n  ".join([f"{found}, by {by}: {'wrong' if problems else 'no leak'}", *problems]))
    if not (source.notes.group or source.notes.release):
        print("  note: each case was taken for a patient of its own; if that is wrong, give --group")
    return 1 if problems else 0
