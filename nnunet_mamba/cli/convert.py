"""nnunet-mamba convert: convert a downloaded data set to nnU-Net's, checked and split."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli import longrange

if TYPE_CHECKING:
    from nnunet_mamba.study.datasets.convert import Conversion
    from nnunet_mamba.study.datasets.source import InvalidDatasetError, Source
    from nnunet_mamba.study.datasets.splits import Split

SAMPLE = 3  # files of a folder that a dry run lists


def add(commands: Any) -> None:
    p = commands.add_parser(
        "convert",
        description="Reads a release as it was downloaded, checks every file, and writes nnU-Net's raw "
        "dataset with splits_final.json. Interrupted or refused, the same command goes on from there. "
        "Exit code 1: there were faults.",
        epilog="examples: nnunet-mamba convert acdc ACDC.zip --split mamba_unet; "
        "nnunet-mamba convert longrange --distance 64",
    )
    p.add_argument("name", metavar="NAME", nargs="?", help="the data set; --list shows them")
    p.add_argument("source", metavar="SOURCE", nargs="*", type=Path, help="its folders or archives")
    p.add_argument("--list", action="store_true", help="show the data sets and their splits")
    p.add_argument("--dataset-id", type=int, metavar="N", help="nnU-Net's number (default: in --list)")
    p.add_argument(
        "--split",
        default="5fold",
        metavar="SPLIT",
        help="5fold (default: nnU-Net's, by patients), official, a ratio such as 7:3 or 70:10:20, or that of "
        "a paper, in --list",
    )
    p.add_argument("--partial", action="store_true", help="a paper's split of which cases are missing")
    p.add_argument("--symlink", action="store_true", help="link files that nnU-Net can read as they are")
    p.add_argument(
        "--unless-there", action="store_true", help="do nothing if the dataset of this number is there"
    )
    p.add_argument("--dry-run", action="store_true", help="say what would be done; reads names only")
    p.add_argument(
        "--accept",
        action="append",
        default=[],
        choices=("geometry", "header", "empty", "extra"),
        metavar="KIND",
        help="take cases with this kind of fault: geometry (their labels are written on the image's grid), "
        "header, empty, extra; may be repeated",
    )
    p.add_argument("--leave-out-faulty", action="store_true", help="go on without cases that have faults")
    p.add_argument("--resize", type=int, nargs=2, metavar=("H", "W"), help="of pictures, in pixels")
    p.add_argument("--raw", type=Path, metavar="DIR", help="where datasets are (default: $nnUNet_raw)")
    p.add_argument("--workers", type=int, metavar="N", help="threads (default: processors, 8 at most)")
    longrange.add_options(p)
    p.set_defaults(run=convert)


def convert(args: argparse.Namespace) -> int:
    if args.list:
        return _print_data_sets()
    from nnunet_mamba.study.datasets.specs import LONGRANGE, get_spec

    if args.name == LONGRANGE:
        return longrange.make(args)
    if args.name is None or not args.source:
        raise ValueError("expected NAME and SOURCE, or --list.")
    _, spec = get_spec(args.name)
    longrange.check_no_options(args)
    number = spec.number if args.dataset_id is None else args.dataset_id
    from nnunet_mamba.nnunet.paths import get_nnunet_folder
    from nnunet_mamba.study.datasets.archives import outline_archives, unpack_archives
    from nnunet_mamba.study.datasets.convert import find_numbered
    from nnunet_mamba.study.datasets.release import read_release
    from nnunet_mamba.study.datasets.source import InvalidDatasetError

    raw = args.raw or get_nnunet_folder("nnUNet_raw")
    if args.unless_there and (existing := find_numbered(raw, number)):
        print(f"{existing} is there")
        return 0
    known = _check_request(args, raw)
    workspace = raw / f".{known}.unpacked"
    opener = outline_archives(args.source) if args.dry_run else unpack_archives(args.source, workspace)
    try:
        with opener as folders:
            source = _renumber(read_release(known, folders), raw, args.dataset_id)
            split = _make_split(args, known, source)
            _print_plan(source, split, raw, known)
            if args.dry_run:
                return _print_dry_run(source, split, folders)
            return _convert(args, known, source, split, raw, workspace)
    except InvalidDatasetError as error:  # unpacked files stay for the next attempt
        print(error, file=sys.stderr)
        print(_describe_fix(error, raw), file=sys.stderr)
        return 1


def _describe_fix(error: InvalidDatasetError, raw: Path) -> str:
    from nnunet_mamba.study.datasets.source import ACCEPTABLE

    acceptable = sorted({issue.kind for issue in error.issues} & set(ACCEPTABLE))
    return (
        "Nothing was written as a dataset yet. Fix these files or download them again, and repeat the "
        f"command: converted cases are kept, hidden in {raw}. Or go on without them: --leave-out-faulty"
        + (f", or with them: --accept {acceptable[0]}." if acceptable else ".")
    )


def _check_request(args: argparse.Namespace, raw: Path) -> str:
    """Return the data set's name; ValueError for errors that can be found before gigabytes are unpacked."""
    from nnunet_mamba.study.datasets.archives import is_archive
    from nnunet_mamba.study.datasets.convert import check_target, replace_number
    from nnunet_mamba.study.datasets.specs import get_spec
    from nnunet_mamba.study.datasets.splits import find_split

    known, spec = get_spec(args.name)
    find_split(args.split, known)
    archives = [source for source in args.source if is_archive(source)]
    if args.symlink and archives:
        raise ValueError(f"--symlink needs an unpacked release; {archives[0]} is an archive.")
    if args.resize and spec.file_ending != ".png":
        raise ValueError(f"--resize is for pictures; {known} has volumes.")
    for option, numbers in (("--resize", args.resize), ("--workers", [args.workers])):
        if any(number is not None and number < 1 for number in numbers or ()):
            raise ValueError(f"{option} must be positive, got {numbers}.")
    number = spec.number if args.dataset_id is None else args.dataset_id
    if number is not None:
        name = replace_number(f"Dataset000_{spec.folder}", number)
        if spec.folder is not None:
            check_target(raw / name)
    return known


def _renumber(source: Source, raw: Path, number: int | None) -> Source:
    """Return the source with the user's number. ValueError if its dataset exists already."""
    from nnunet_mamba.study.datasets.convert import check_target, replace_number

    if number is not None:
        source = replace(source, name=replace_number(source.name, number))
    check_target(raw / source.name)
    return source


def _make_split(args: argparse.Namespace, known: str, source: Source) -> Split:
    """Return the split that the user chose. LeakError if it leaks."""
    from nnunet_mamba.study.datasets.splits import LeakError, build_group_fn, find_leaks, make_split

    group = build_group_fn(source.notes.group)
    split = make_split(args.split, source, group, known, partial=args.partial)
    if leaks := find_leaks(split, group):
        raise LeakError(f"The split {args.split}", leaks)
    return split


def _print_dry_run(source: Source, split: Split, folders: list[Path]) -> int:
    """Print issues and files, and return the exit code."""
    from nnunet_mamba.study.datasets.convert import plan_files
    from nnunet_mamba.study.datasets.source import summarize_issues

    for line in summarize_issues(source.issues):
        print(line)
    _print_files(plan_files(source, split), [folder.resolve() for folder in folders])
    print("nothing was written; the same command without --dry-run converts")
    return 1 if source.issues else 0


def _convert(
    args: argparse.Namespace, known: str, source: Source, split: Split, raw: Path, workspace: Path
) -> int:
    """Write the dataset, print a summary, and return the exit code."""
    from SimpleITK import ProcessObject

    from nnunet_mamba.study.datasets.convert import convert_dataset
    from nnunet_mamba.study.datasets.specs import DATASETS

    accept = {*args.accept, *DATASETS[known].accept}
    ProcessObject.SetGlobalWarningDisplay(False)  # one for each of ACDC's files, about its odd sform
    done = convert_dataset(
        source,
        raw / source.name,
        split,
        link=args.symlink,
        accept=accept,
        leave_out=args.leave_out_faulty,
        resize=tuple(args.resize) if args.resize else None,
        workspace=workspace,
        workers=args.workers,
        progress=_build_progress(),
    )
    _print_summary(done, accept, DATASETS[known].accept)
    return 1 if {issue.kind for issue in done.issues} - accept else 0


def _print_data_sets() -> int:
    from nnunet_mamba.study.datasets.specs import DATASETS, LONGRANGE
    from nnunet_mamba.study.datasets.splits import get_published_splits

    for name, spec in DATASETS.items():
        number = f"Dataset{spec.number:03d}_{spec.folder}" if spec.number else "Dataset###_Name of the task"
        counts = ", ".join(f"{n} {part}" for part, n in spec.published.items())
        splits = ", ".join(get_published_splits(name))
        print(f"{name:24s} {spec.title}")
        print(f"{'':24s} {number}" + (f"; {counts}" if counts else ""))
        print(f"{'':24s} from {spec.obtain}; {spec.licence}")
        if splits:
            print(f"{'':24s} splits: {splits}")
    print(f"{LONGRANGE:24s} labels that depend on cues far away: made here, with --distance N")
    return 0


def _print_plan(source: Source, split: Split, raw: Path, known: str) -> None:
    from nnunet_mamba.io.messages import join_names
    from nnunet_mamba.study.datasets.specs import DATASETS

    print(
        f"{source.name} in {raw}: {len(source.labelled_names())} labelled cases, {len(source.cases)} in all"
    )
    for role, n in DATASETS[known].published.items():
        found = sum(case.role == role for case in source.cases)
        if found != n:
            print(f"  note: {found} of the release's {n} {role} cases are here")
    sizes = [f"{len(fold.train)}/{len(fold.val)}" for fold in split.folds]
    print(f"  training/validation: {', '.join(sizes)}; kept for the test: {len(split.test)}")
    if source.unmatched:
        names = [file.name for file in source.unmatched]
        print(f"  note: {len(names)} images beside these were not taken: {join_names(sorted(names))}")


def _print_files(files: Iterable[tuple[Path, str]], folders: list[Path]) -> None:
    """Print the first files of each of nnU-Net's folders, and the number of the others."""
    by_folder: dict[str, list[tuple[Path, str]]] = {}
    for file, target in files:
        by_folder.setdefault(target.partition("/")[0], []).append((file, target))
    for name, members in by_folder.items():
        for file, target in members[:SAMPLE]:
            top = next((folder.parent for folder in folders if file.is_relative_to(folder)), Path("/"))
            print(f"  {file.relative_to(top)} -> {target}")
        if len(members) > SAMPLE:
            print(f"  and {len(members) - SAMPLE} more files for {name}")


def _print_summary(done: Conversion, accept: set[str], usual: Collection[str]) -> None:
    """Print issues and counts; issues of the `usual` kinds, which every copy has, are only counted."""
    from nnunet_mamba.study.datasets.source import summarize_issues

    unusual = [issue for issue in done.issues if issue.kind not in usual]
    for line in summarize_issues(
        unusual, lambda issue: "accepted, " if issue.kind in accept else "left out, "
    ):
        print(line)
    for kind in usual:
        n = sum(issue.kind == kind for issue in done.issues)
        print(f"  accepted, as every copy of this data set has it: {n} {kind}")
    n_training = len(done.source.labelled_names()) - len(done.split.test)
    n_test = len(done.source.cases) - n_training
    print(f"-> {done.folder}: {n_training} cases in imagesTr, {n_test} in imagesTs")
    number = int(done.folder.name[7:10])
    print(f"next: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")


def _build_progress() -> Callable[[int, int], None]:
    """Return a function that prints the progress ten times in all."""
    start, printed = time.monotonic(), 0

    def report_progress(done: int, total: int) -> None:
        nonlocal printed
        if done * 10 // total > printed:
            printed = done * 10 // total
            rate = done / max(time.monotonic() - start, 1e-9)
            print(f"  {done}/{total} cases, {rate:.1f} a second", flush=True)

    return report_progress
